"""The subcommands of a local cluster: ``up``, ``down``, ``status``, ``load``, ``kubeconfig`` ...

Only what is typed and what is printed: options, their checks, and exit codes. A mistake in a
command line is exit code 2, a cluster that doesn't come up (or isn't well, for ``status``) is 1.
"""

import asyncio
import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click
import orjson
import rich.console

from whipstaff.cluster import (
    binaries as finder,
)
from whipstaff.cluster import (
    clusters,
    components,
    helm,
    layout,
    machines,
    nodes,
    plan,
    progress,
    provisioning,
)
from whipstaff.cluster import (
    images as makers,
)
from whipstaff.cluster import (
    status as statuses,
)
from whipstaff.runtime import errors, flags

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])
_UNLIMITED = 300
_FEW = provisioning.FEW_NODES
_FOLDER = click.Path(file_okay=False, path_type=pathlib.Path)


def _data_dir(function: _Decorated) -> _Decorated:
    return click.option(
        "--data-dir",
        "place",
        type=_FOLDER,
        callback=lambda _context, _parameter, given: layout.Layout(
            (given or layout.default_data_dir()).absolute()
        ),
        help=f"Which cluster: one a folder.  [default: {layout.default_data_dir()}]",
    )(function)


@contextlib.contextmanager
def _explaining() -> Iterator[None]:
    """Print an error's notes, such as the end of a log, above the line that says what is wrong."""
    try:
        yield
    except errors.WhipstaffError as error:
        for note in getattr(error, "__notes__", ()):
            click.echo(note, err=True)
        raise


@click.command()
@_data_dir
@click.option("--nodes", type=click.IntRange(0, 30_000), help="Number of nodes.  [default: 3]")
@click.option(
    "--provider",
    type=click.Choice([components.SIMULATED, components.CRI]),
    help="What runs the nodes' pods: nothing, or containerd.  "
    f"[default: cri for root with containerd and at most {_FEW} nodes, else simulated]",
)
@click.option(
    "--kubernetes-version",
    metavar="VERSION",
    help=f"Version of the control plane.  [default: {finder.KUBERNETES_VERSION}]",
)
@click.option(
    "--stock",
    multiple=True,
    type=click.Choice(components.REPLACEABLE),
    help="Run the stock component instead of ours. May be given several times.",
)
@click.option(
    "--assets", type=_FOLDER, help="Folder with etcd, kube-apiserver, kube-controller-manager ..."
)
@click.option(
    "--extra-config",
    multiple=True,
    metavar="COMPONENT.FLAG=VALUE",
    help="A flag for a component, such as kube-apiserver.v=4. May be given several times.",
)
@click.option(
    "--kubeconfig-update",
    cls=flags.Boolean,
    default=True,
    help="Give your kubeconfig a context for the cluster and make it current.  [default: true]",
)
@click.option(
    "--example",
    cls=flags.Boolean,
    default=True,
    help="End with a small example Deployment.  [default: true]",
)
@click.option(
    "--wait",
    type=flags.Duration(),
    default="60s",
    show_default=True,
    help="How long to wait for all nodes to be Ready; 0 doesn't.",
)
@click.option(
    "--addons",
    cls=flags.Boolean,
    default=None,
    help="Run CoreDNS and metrics-server on nodes with real containers.  [default: true]",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
    metavar="ARCHIVE",
    help="An image that every node with real containers gets, as an OCI or Docker archive. "
    "May be given several times.",
)
@click.option("--unsafe-no-fsync", is_flag=True, hidden=True)
@flags.logging_options
def up(
    place: layout.Layout,
    assets: pathlib.Path | None,
    kubeconfig_update: bool,
    example: bool,
    wait: float,
    unsafe_no_fsync: bool,
    **spec: Any,
) -> None:
    """Start a local cluster: stock control plane, our scheduler, our nodes.

    A second time, it finds that the cluster runs and changes nothing.
    """
    asked = {name: value for name, value in spec.items() if value not in (None, ())}
    if "images" in asked:
        asked["images"] = tuple(str(path.absolute()) for path in asked["images"])
    if "kubernetes_version" in asked:
        asked["kubernetes_version"] = finder.checked_version(asked["kubernetes_version"])
    for entry in asked.get("extra_config", ()):
        _check_extra_config(entry)
    if unsafe_no_fsync:
        asked["fsync"] = False
    options = clusters.Options(assets, kubeconfig_update, example, wait)
    with _explaining():
        clusters.up(place, asked, options, progress.Progress())


@click.command()
@_data_dir
@click.argument(
    "archives",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
)
@flags.logging_options
def load(place: layout.Layout, archives: tuple[pathlib.Path, ...]) -> None:
    """Give images, as OCI or Docker archives, to all nodes with real containers."""
    with _explaining():
        provisioning.load(place, archives, progress.Progress())


@click.command()
@_data_dir
@click.option("--keep-data", is_flag=True, help="Keep what is in the cluster for the next `up`.")
@flags.logging_options
def down(place: layout.Layout, keep_data: bool) -> None:
    """Stop a local cluster, delete it, and leave nothing behind."""
    with _explaining():
        if not clusters.down(place, progress.Progress(), keep_data=keep_data):
            click.echo(f"No cluster in {place.root}.")


@click.command()
@_data_dir
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@click.pass_context
def status(context: click.Context, place: layout.Layout, output: str) -> None:
    """Show what runs and how it is; exit code 0 only if all is well."""
    found = asyncio.run(statuses.look(place))
    if output == "json":
        click.echo(orjson.dumps(found.document(), option=orjson.OPT_INDENT_2))
    else:
        click.echo(f"Cluster {found.name}, Kubernetes {found.kubernetes_version}, {found.server}")
        click.echo(f"Nodes: {found.nodes_ready} of {found.nodes_expected} Ready")
        click.echo(f"Data:  {found.data_dir}\n")
        console = rich.console.Console(highlight=False)
        if not console.is_terminal:
            console.width = _UNLIMITED  # a pipe has no width at which a table must be cut
        console.print(found.table())
        for problem in found.problems:
            click.echo(f"Problem: {problem}")
    context.exit(1 if found.problems else 0)


@click.command()
@_data_dir
@click.option("--path", "only_path", is_flag=True, help="Print the file's path instead.")
def kubeconfig(place: layout.Layout, only_path: bool) -> None:
    """Print the administrator's kubeconfig."""
    if plan.Plan.load(place) is None:
        raise errors.StartupError(f"no cluster in {place.root}: `whipstaff up` starts one")
    file = place.kubeconfig("admin")
    click.echo(str(file) if only_path else file.read_text(), nl=only_path)


@click.command("binaries")
@click.option(
    "--kubernetes-version", metavar="VERSION", default=finder.KUBERNETES_VERSION, show_default=True
)
@click.argument(
    "names",
    nargs=-1,
    type=click.Choice((*finder.NAMES, *finder.COMPARED, helm.NAME)),
)
@click.option(
    "--images",
    "with_images",
    is_flag=True,
    help="Make the images for nodes with real containers as well, where there can be such nodes.",
)
def get_binaries(kubernetes_version: str, names: tuple[str, ...], with_images: bool) -> None:
    """Get the control plane's binaries, or helm, and print where they are."""
    version = finder.checked_version(kubernetes_version)
    show = progress.Progress(rich.console.Console(stderr=True, highlight=False, soft_wrap=True))
    with _explaining(), show.step("Binaries") as step:
        asked = [name for name in names or finder.NAMES if name != helm.NAME]
        paths = list(finder.resolve(asked, version=version, report=step.update).values())
        if helm.NAME in names:
            paths.append(helm.program(report=step.update))
        step.result = f"Kubernetes {version}"
    if with_images and machines.obstacle() is None:
        with _explaining(), show.step("Images") as step:
            paths += [makers.archive(name, report=step.update) for name in nodes.ALL_IMAGES]
            step.result = ", ".join(nodes.ALL_IMAGES)
    for path in paths:
        click.echo(str(path))


def _check_extra_config(entry: str) -> None:
    component, dot, flag = entry.partition(".")
    known = (
        *components.needed_binaries(frozenset(components.REPLACEABLE), components.CRI),
        *components.OURS,
    )
    if not dot or "=" not in flag or component not in known:
        raise errors.ConfigurationError(
            f"--extra-config: {entry!r} isn't COMPONENT.FLAG=VALUE with a component of "
            f"{', '.join(known)}"
        )
