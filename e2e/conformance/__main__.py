"""`make conformance`: upstream's own end-to-end tests against a cluster of ours.

    python -m e2e.conformance [--focus REGEX]... [--skip REGEX]... [--quick] [--nodes N]
        [--kubeconfig FILE] [--stock COMPONENT]... [--record] [--output FOLDER]

Starts a cluster with real containers, unless it is given one, puts the suite's images on its nodes,
runs the tests and prints a table. Exit code 1 if a test failed that is recorded as passing; with
``--focus``, if any failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator

import click

from e2e.conformance import clusters, results, running
from whipstaff.cluster import images
from whipstaff.runtime import errors

CONFORMANCE = r"\[Conformance\]"
# Needs mounts that come from images, which containerd has from 2.1 on.
UNSUPPORTED = ("ImageVolume",)


@contextlib.contextmanager
def cluster(
    nodes: int, given: pathlib.Path | None, stock: tuple[str, ...]
) -> Iterator[pathlib.Path]:
    """The kubeconfig of the cluster to test: the one given, or that of one that ends with us."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="whipstaff-conformance-") as folder:
        made = clusters.Real(pathlib.Path(folder))
        try:
            made.start(nodes, click.echo, stock)
            yield made.kubeconfig
        finally:
            made.stop()


@click.command()
@click.option("--focus", multiple=True, help="Only tests whose names match; all of Conformance.")
@click.option("--skip", multiple=True, help="No tests whose names match.")
@click.option("--labels", default="", help="A filter of ginkgo's on labels.")
@click.option("--quick", is_flag=True, help="The chosen few of quick.txt.")
@click.option("--nodes", default=2, show_default=True)
@click.option("--procs", default=4, show_default=True, help="Tests beside each other.")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=pathlib.Path, exists=True),
    help="A cluster that runs already; the suite's images must be on its nodes.",
)
@click.option(
    "--stock", multiple=True, metavar="COMPONENT", help="As of `whipstaff up`: to compare with."
)
@click.option("--record", is_flag=True, help="Put down in passing.txt what passes.")
@click.option(
    "--output",
    type=click.Path(path_type=pathlib.Path),
    default=pathlib.Path("conformance-results"),
    show_default=True,
)
def main(
    focus: tuple[str, ...],
    skip: tuple[str, ...],
    labels: str,
    quick: bool,
    nodes: int,
    procs: int,
    kubeconfig: pathlib.Path | None,
    stock: tuple[str, ...],
    record: bool,
    output: pathlib.Path,
) -> None:
    """Run upstream's tests."""
    chosen = running.Selection(
        (results.focus(results.names(results.QUICK)),) if quick else focus or (CONFORMANCE,),
        (*skip, *UNSUPPORTED),
        labels,
    )
    workshop = images.Workshop(os.environ, lambda text: click.echo(f"  {text}", err=True))
    try:
        with cluster(nodes, kubeconfig, stock) as address:
            specs = running.run(
                chosen,
                kubeconfig=address,
                output=output.absolute(),
                nodes=nodes,
                procs=procs,
                workshop=workshop,
                say=click.echo,
            )
    except errors.StartupError as error:
        raise click.ClickException(str(error)) from None
    (output / "results.json").write_text(json.dumps(results.document(specs), indent=1))
    if described := results.failures(specs):
        (output / "failures.txt").write_text(described + "\n")
        click.echo(f"\n{described}\n")
    click.echo(results.table(specs))
    lost = results.lost(specs, results.names(results.RECORDED))
    for name in lost:
        click.echo(f"LOST: {name}")
    if record:
        results.record(specs)
    failed = sum(spec.failure is not None for spec in specs)
    skipped = sum(spec.skipped for spec in specs)
    click.echo(f"{len(specs) - failed - skipped} passed, {failed} failed, {skipped} skipped")
    raise SystemExit(1 if lost or not specs or (focus and failed) else 0)


if __name__ == "__main__":
    main()
