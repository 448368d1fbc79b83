"""`python -m website`: what `make docs` calls."""

from __future__ import annotations

import pathlib

import click

from website import flags, metrics, offline, staging

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
@click.argument("answers", metavar="NAME=FILE...", nargs=-1, required=True)
def write_metrics(answers: tuple[str, ...]) -> None:
    """Write docs/reference/metrics.md anew, of each component's answer at /metrics."""
    read = {}
    for each in answers:
        name, _, file = each.partition("=")
        read[name] = pathlib.Path(file).read_text(encoding="utf-8")
    (staging.DOCS / "reference" / "metrics.md").write_text(metrics.page(read), encoding="utf-8")


main()
