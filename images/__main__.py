"""`make images`: build the images into the cache, and print where the archives are."""

from __future__ import annotations

import click
import rich.console

from images import building
from whipstaff.cluster import progress
from whipstaff.runtime import errors


@click.command()
@click.argument("components", nargs=-1, type=click.Choice(building.COMPONENTS))
def main(components: tuple[str, ...]) -> None:
    """Build COMPONENTS' images, or all."""
    show = progress.Progress(rich.console.Console(stderr=True, highlight=False, soft_wrap=True))
    for component in components or building.COMPONENTS:
        try:
            with show.step("Image") as step:
                path = building.archive(component, report=step.update)
                step.result = f"{building.name(component)}, {path.stat().st_size / 1e6:.0f} MB"
        except errors.StartupError as error:
            notes = getattr(error, "__notes__", ())
            raise click.ClickException("\n".join([*notes, str(error)])) from error
        click.echo(str(path))


main()
