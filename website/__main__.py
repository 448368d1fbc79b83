"""`python -m website`: what `make docs` calls."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import click

from website import flags, metrics, offline, staging
from whipstaff.cluster import layout

Folder = click.Path(path_type=pathlib.Path)


@click.group()
def main() -> None:
    """The documentation's pages."""


@main.command()
@click.argument("folder", type=Folder)
def stage(folder: pathlib.Path) -> None:
    """Fill FOLDER with what the site's generator reads."""
    staging.stage(folder)


@main.command()
@click.argument("site", type=Folder)
def check(site: pathlib.Path) -> None:
    """Whether the built SITE can be read without a network."""
    found = [f"{file}: {address}" for file, address in offline.fetched(site)]
    if found:
        raise click.ClickException("fetched from elsewhere:\n" + "\n".join(found))
    click.echo(f"{len(list(site.rglob('*.html')))} pages in {site}")


@main.command("flags")
def write_flags() -> None:
    """Write docs/reference/flags.md anew."""
    (staging.DOCS / "reference" / "flags.md").write_text(flags.page(), encoding="utf-8")


@main.command("metrics")
@click.option("--data-dir", type=Folder, default=layout.default_data_dir, help="Which cluster.")
def write_metrics(data_dir: pathlib.Path) -> None:
    """Write docs/reference/metrics.md anew, from what a local cluster that runs shows."""
    program = pathlib.Path(sys.executable).with_name("whipstaff")
    command = [str(program), "status", "-o", "json", "--data-dir", str(data_dir)]
    status = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    page = metrics.page(metrics.answers(status, data_dir))
    (staging.DOCS / "reference" / "metrics.md").write_text(page, encoding="utf-8")


main()
