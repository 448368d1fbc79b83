"""The upstream test suite's programs, built from its own sources.

The module in ``suite/`` requires k8s.io/kubernetes at the version of the local cluster. e2e.test is
what upstream's release has under that name; ginkgo runs it in several processes; the others go into
the images that the tests use.
"""

from __future__ import annotations

import functools
import pathlib
import subprocess

from whipstaff.cluster import builds, images, layout

MODULE = pathlib.Path(__file__).parent / "suite"
_KUBERNETES = "k8s.io/kubernetes"


def ginkgo(workshop: images.Workshop) -> pathlib.Path:
    """The runner, of the version that the suite is built with."""
    return _program(workshop, "github.com/onsi/ginkgo/v2/ginkgo")


def agnhost(workshop: images.Workshop) -> pathlib.Path:
    """The many small servers that most tests use."""
    return _program(workshop, f"{_KUBERNETES}/test/images/agnhost")


def nonewprivs(workshop: images.Workshop) -> pathlib.Path:
    """What tells its effective user."""
    return _program(workshop, f"{_KUBERNETES}/test/images/nonewprivs")


def sample_apiserver(workshop: images.Workshop) -> pathlib.Path:
    """An API server to be aggregated."""
    return _program(workshop, "k8s.io/sample-apiserver")


def e2e_test(workshop: images.Workshop) -> pathlib.Path:
    """The suite itself; the first time takes some three minutes on two cores."""
    program = _folder(workshop) / "e2e.test"
    with images.alone(program.parent):
        if not program.is_file():
            builds.build_tests(
                f"{_KUBERNETES}/test/e2e",
                program,
                environ=workshop.environ,
                report=workshop.report,
                module=MODULE,
            )
    return program


def source(workshop: images.Workshop, path: str) -> pathlib.Path:
    """A file or folder of Kubernetes' sources."""
    return _kubernetes(builds.find_go(workshop.environ, workshop.report)) / path


@functools.cache
def _kubernetes(go: pathlib.Path) -> pathlib.Path:
    listed = subprocess.run(
        [go, "list", "-m", "-f", "{{.Dir}}", _KUBERNETES],
        cwd=MODULE,
        capture_output=True,
        text=True,
        check=True,
    )
    return pathlib.Path(listed.stdout.strip())


def _program(workshop: images.Workshop, package: str) -> pathlib.Path:
    return workshop.program(MODULE, package)


def _folder(workshop: images.Workshop) -> pathlib.Path:
    return layout.cache_dir(workshop.environ) / "programs" / "e2e" / images.digest_of(MODULE)
