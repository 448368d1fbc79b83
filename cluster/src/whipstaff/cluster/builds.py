"""Builds the control plane's binaries from the official Go modules.

The module in ``controlplane/`` requires k8s.io/kubernetes and etcd at fixed versions and has one
``main.go`` a component; other modules are built in the same way. Go is the one on PATH if it is new
enough, else a wheel that holds it, pinned by hash, in a virtual environment of its own in the
cache. All binaries are built in one go and moved to their folder when all are done.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence

from whipstaff.cluster import layout, processes
from whipstaff.runtime import errors

GO_MINIMUM = (1, 26)
MODULE = pathlib.Path(__file__).parent / "controlplane"
TOOLCHAIN = MODULE / "go-toolchain.txt"
_VERSION_PACKAGE = "k8s.io/component-base/version"
_PACKAGE = re.compile(r"[\w.~-]+(/[\w.~-]+)*")  # a line of `go build -v` that names a package
_DOWNLOAD = "go: downloading "

Report = Callable[[str], None]


def build(
    names: Sequence[str],
    version: str,
    folder: pathlib.Path,
    *,
    environ: Mapping[str, str],
    report: Report,
    module: pathlib.Path = MODULE,
    stamps: Mapping[str, str] | None = None,
) -> None:
    """Build ``names`` into ``folder``; the first time takes some ten minutes on two cores.

    Args:
        names: of packages: a folder of ``module`` each, or an import path of a module that it
            requires, whose last part then names the binary.
        version: of Kubernetes, which the binaries say of themselves.
        folder: where they are put when all are done.
        environ: names the cache and PATH, and is what go runs with.
        report: told how far it is.
        module: the folder of a go.mod.
        stamps: further variables of packages that are set to a text.

    Raises:
        StartupError: there is no Go, or the build fails.
    """
    go = find_go(environ, report)
    variables = _variables(environ)
    targets = [name if "/" in name else f"./{name}" for name in names]
    binaries = [name.rpartition("/")[2] for name in names]
    report("counting packages")
    total = _count(go, targets, variables, report, module)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as temporary:
        command = [
            *(str(go), "build", "-v", "-trimpath", "-ldflags", _ldflags(version, stamps or {})),
            *("-o", f"{temporary}/", *targets),
        ]
        _run(
            command,
            variables,
            lambda done: report(_compiled(done, total, binaries)),
            report,
            module=module,
        )
        for name in binaries:
            (pathlib.Path(temporary) / name).replace(folder / name)


def build_tests(
    package: str,
    program: pathlib.Path,
    *,
    environ: Mapping[str, str],
    report: Report,
    module: pathlib.Path,
) -> None:
    """Build the tests of a package into one program, as ``go test -c`` does.

    Raises:
        StartupError: there is no Go, or the build fails.
    """
    go = find_go(environ, report)
    variables = _variables(environ)
    report("counting packages")
    total = _count(go, ["-test", package], variables, report, module)
    flags = ("-trimpath", "-ldflags", "-s -w")
    # Only a build tells of its progress; what it has compiled is there for the tests.
    _run(
        [str(go), "build", "-v", *flags, package],
        variables,
        lambda done: report(_compiled(done, total, [program.name])),
        report,
        module=module,
    )
    report(f"linking {program.name}")
    with tempfile.TemporaryDirectory(prefix=".build-", dir=program.parent) as temporary:
        made = pathlib.Path(temporary) / program.name
        command = [str(go), "test", "-c", *flags, "-o", str(made), package]
        _run(command, variables, lambda _: None, report, module=module)
        made.replace(program)


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    """What go runs with."""
    return {
        **environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }


def find_go(environ: Mapping[str, str], report: Report) -> pathlib.Path:
    """A Go that is new enough, installed into the cache where PATH has none.

    Raises:
        StartupError: there is no way to get one.
    """
    on_path = shutil.which("go", path=environ.get("PATH"))
    if on_path is not None and go_version(pathlib.Path(on_path), environ) >= GO_MINIMUM:
        return pathlib.Path(on_path)
    pinned = TOOLCHAIN.read_text().split(maxsplit=1)[0]
    folder = layout.cache_dir(environ) / pinned.replace("==", "-")
    go = _go_in(folder)
    if go is None:
        report(f"installing {pinned}")
        _install(folder, environ)
        go = _go_in(folder)
    if go is None or go_version(go, environ) < GO_MINIMUM:
        raise errors.StartupError(f"{pinned} was installed in {folder} but has no working go")
    return go


def go_version(go: pathlib.Path, environ: Mapping[str, str]) -> tuple[int, int]:
    """Major and minor version; (0, 0) where it doesn't tell."""
    answer = subprocess.run(
        [go, "env", "GOVERSION"],
        env={**environ, "GOTOOLCHAIN": "local"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    match = re.match(r"go(\d+)\.(\d+)", answer.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _go_in(folder: pathlib.Path) -> pathlib.Path | None:
    """The go of a virtual environment, wherever its wheel puts it."""
    script = folder / "bin" / "go"
    return script if script.is_file() else None


def _install(folder: pathlib.Path, environ: Mapping[str, str]) -> None:
    """Install the pinned wheel, with uv where there is one: it brings what venv may lack."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    uv = shutil.which("uv", path=environ.get("PATH")) or _sibling("uv")
    python = folder / "bin" / "python"
    hashed = ["install", "--quiet", "--require-hashes", "--requirement", str(TOOLCHAIN)]
    if uv is not None:
        commands = [
            [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
            [uv, "pip", *hashed, "--python", str(python)],
        ]
    else:
        commands = [
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "--disable-pip-version-check", *hashed],
        ]
    for command in commands:
        done = subprocess.run(command, env=dict(environ), capture_output=True, check=False)
        if done.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            text = (done.stderr or done.stdout).decode(errors="replace")
            raise processes.explained(
                f"no Go {'.'.join(map(str, GO_MINIMUM))} or later on PATH, and installing it fails",
                " ".join(command),
                text.splitlines()[-10:],
            )


def _sibling(name: str) -> str | None:
    """A program beside the running interpreter, which need not be on PATH."""
    path = pathlib.Path(sys.executable).with_name(name)
    return str(path) if os.access(path, os.X_OK) else None


def _ldflags(version: str, stamps: Mapping[str, str]) -> str:
    major, minor = version.removeprefix("v").split(".")[:2]
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    stamped = {f"{_VERSION_PACKAGE}.{key}": value for key, value in values.items()}
    stamped.update(stamps)
    return " ".join(("-s -w", *(f"-X {key}={value}" for key, value in stamped.items())))


def _count(
    go: pathlib.Path,
    targets: Sequence[str],
    variables: Mapping[str, str],
    report: Report,
    module: pathlib.Path,
) -> int:
    """How many packages there are to compile at most; downloads the modules on the way."""
    lines = _run(
        [str(go), "list", "-deps", *targets],
        variables,
        lambda done: report(f"{done} modules downloaded"),
        report,
        module=module,
        counted=_DOWNLOAD,
    )
    return len(lines)


def _run(
    command: Sequence[str],
    variables: Mapping[str, str],
    progress: Callable[[int], None],
    report: Report,
    *,
    module: pathlib.Path,
    counted: str = "",
) -> list[str]:
    """Run go; ``progress`` gets the number of packages (or lines with ``counted``) so far.

    Raises:
        StartupError: it fails; with the end of what it said.
    """
    said: list[str] = []
    done = 0
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(
            list(command),
            cwd=module,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if line.startswith(counted) if counted else _PACKAGE.fullmatch(line.strip()):
                    done += 1
                    progress(done)
                elif line.startswith(_DOWNLOAD):
                    report(line.removeprefix("go: ").strip())
                else:
                    said.append(line.rstrip())
        except BaseException:
            process.terminate()
            raise
        if process.wait() != 0:
            raise processes.explained(
                f"go {command[1]} for {module.name} fails",
                " ".join(command),
                said[-10:],
            )
        output.seek(0)
        return output.read().decode().split()


def _compiled(done: int, total: int, names: Sequence[str]) -> str:
    return f"compiling {', '.join(names)}: {done} of at most {total} packages"
