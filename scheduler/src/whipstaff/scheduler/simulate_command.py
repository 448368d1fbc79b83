"""`whipstaff simulate`: what would the scheduler do?

No loop runs here. Results go to standard output, progress to standard error and only to a terminal.
Whatever is wrong with files or flags is one line and exit code 2. With `--check`, exit code 1 says
that something stays pending, or can't be drained.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click
import orjson
import rich.console
import rich.progress

from whipstaff.runtime import errors, flags
from whipstaff.scheduler import simulation
from whipstaff.scheduler.simulation import attempts, results, tables

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])
_WIDTH_OF_A_PIPE = 400


@click.group("simulate")
def simulate() -> None:
    """What if? Place, drain, count and compare, without touching the cluster."""


def _common(function: _Decorated) -> _Decorated:
    """The options of every question; as `source` and `shown`, and the rest by name."""
    options = [
        click.option(
            "--from",
            "dumps",
            multiple=True,
            metavar="FILE",
            help="Take these objects for the cluster: what `kubectl get nodes,pods,... "
            "--all-namespaces -o json` printed, or YAML; - is standard input. May be given "
            "several times. Without it: the live cluster, which is only read.",
        ),
        flags.kubeconfig_option,
        click.option("--context", metavar="NAME", help="The context of the kubeconfig to use."),
        click.option(
            "--nodes-like",
            "more_nodes",
            multiple=True,
            metavar="NODE=N",
            help="What if there were N more nodes like NODE? May be given several times.",
        ),
        click.option(
            "--without-node",
            "fewer_nodes",
            multiple=True,
            metavar="NODE",
            help="What if NODE and its pods weren't there? May be given several times.",
        ),
        click.option(
            "--seed", default="0", show_default=True, help="For what chance decides: any text."
        ),
        click.option(
            "-o",
            "--output",
            type=click.Choice(["table", "wide", "json"]),
            default="table",
            show_default=True,
            help="wide has a row for each pod or node.",
        ),
        click.option(
            "--check",
            is_flag=True,
            help="Exit code 1 if a pod stays pending, or a node isn't drained.",
        ),
        flags.logging_options,
    ]
    for option in reversed(options):
        function = option(function)
    return function


_manifests = click.option(
    "-f",
    "--filename",
    "manifests",
    multiple=True,
    metavar="FILE",
    help="Manifests: a file, a folder, or - for standard input. May be given several times.",
)
_namespace = click.option(
    "-n",
    "--namespace",
    metavar="NAME",
    help="The namespace of manifests that name none.  [default: that of the kubeconfig's context, "
    "or default]",
)
_config = click.option(
    "--config", metavar="FILE", help="A KubeSchedulerConfiguration. Without it: the defaults."
)
_preempt = click.option(
    "--preempt",
    cls=flags.Boolean,
    default=True,
    show_default=True,
    help="Evict pods of a lower priority where that makes room.",
)
_pending = click.option(
    "--pending", is_flag=True, help="Place the pods that wait in the cluster, too."
)
_anew = click.option(
    "--anew",
    is_flag=True,
    help="Take every pod off its node and place it anew, too; not DaemonSets'.",
)


@simulate.command()
@_manifests
@_namespace
@_config
@_pending
@_anew
@_preempt
@_common
def place(
    manifests: tuple[str, ...], pending: bool, anew: bool, check: bool, output: str, **asked: Any
) -> None:
    """Where would these pods go? Which stay pending, and whom would preemption evict?"""
    _need_pods(manifests, pending, anew)
    cluster, options = _cluster(asked, manifests)
    with _progress("Placing") as report:
        found = simulation.place(
            cluster, manifests, pending=pending, anew=anew, report=report, **options
        )
    _show(found, output, tables.print_placement, _placement_document)
    _end(check and bool(found.pending))


@simulate.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@click.option(
    "--force", is_flag=True, help="Evict pods without a controller, which nobody creates anew."
)
@click.option("--delete-emptydir-data", is_flag=True, help="Evict pods with emptyDir volumes.")
@click.option(
    "--ignore-daemonsets",
    cls=flags.Boolean,
    default=True,
    show_default=True,
    help="Leave DaemonSets' pods alone, and don't fail for them.",
)
@_config
@_preempt
@_common
def drain(nodes: tuple[str, ...], check: bool, output: str, **asked: Any) -> None:
    """What would draining these nodes do? Where do their pods go, and what is in the way?"""
    cluster, options = _cluster(asked)
    with _progress("Draining") as report:
        found = simulation.drain(cluster, nodes, report=report, **options)
    _show(found, output, tables.print_drain, _drain_document)
    _end(check and (bool(found.placement.pending) or not found.succeeds))


@simulate.command()
@_manifests
@_namespace
@_config
@click.option("--limit", type=click.IntRange(1), help="Count no further than this.")
@_common
def fit(manifests: tuple[str, ...], check: bool, output: str, **asked: Any) -> None:
    """How many more of this pod fit, where, and what ends it?"""
    _need_pods(manifests)
    cluster, options = _cluster(asked, manifests)
    with _progress("Counting") as report:
        found = simulation.fit(cluster, manifests, report=report, **options)
    _show(found, output, tables.print_fit, _fit_document)
    _end(check and not found.total)


@simulate.command()
@_manifests
@_namespace
@click.option(
    "--config",
    "configs",
    required=True,
    multiple=True,
    metavar="FILE",
    help="A KubeSchedulerConfiguration; to be given twice.",
)
@_pending
@_anew
@_preempt
@_common
def compare(
    manifests: tuple[str, ...],
    configs: tuple[str, ...],
    pending: bool,
    anew: bool,
    check: bool,
    output: str,
    **asked: Any,
) -> None:
    """The same pods by two configurations: what goes elsewhere, and how even is the use?"""
    _need_pods(manifests, pending, anew)
    if len(configs) != 2:
        raise click.UsageError("two configurations are compared: give --config twice")
    cluster, options = _cluster(asked, manifests)
    with _progress("Comparing") as report:
        found = simulation.compare(
            cluster,
            manifests,
            a=configs[0],
            b=configs[1],
            pending=pending,
            anew=anew,
            report=report,
            **options,
        )
    _show(found, output, tables.print_comparison, _comparison_document)
    pending_anywhere = any(side.pending for side in found.placements)
    _end(check and pending_anywhere)


def _end(failed: bool) -> None:
    click.get_current_context().exit(1 if failed else 0)


def _need_pods(manifests: tuple[str, ...], *others: bool) -> None:
    if not manifests and not any(others):
        more = ", --pending or --anew" if others else ""
        raise click.UsageError(f"nothing is asked about: give -f{more}")


def _cluster(
    asked: dict[str, Any], manifests: tuple[str, ...] = ()
) -> tuple[simulation.Cluster, dict[str, Any]]:
    """The cluster that is asked about, and the options that are left."""
    dumps, kubeconfig, context = (asked.pop(name) for name in ("dumps", "kubeconfig", "context"))
    more, fewer = asked.pop("more_nodes"), asked.pop("fewer_nodes")
    if [*dumps, *manifests].count("-") > 1:
        raise click.UsageError("standard input can be read once only")
    with _progress("Reading") as report:
        report(0, 0)
        cluster = (
            simulation.Cluster.load(*dumps)
            if dumps
            else simulation.Cluster.connect(kubeconfig, context)
        )
    try:
        for name, count in map(_like, more):
            cluster = cluster.nodes_like(name, count)
        if fewer:
            cluster = cluster.without_nodes(fewer)
    except LookupError as error:
        raise errors.ConfigurationError(str(error.args[0])) from error
    return cluster, asked


def _like(text: str) -> tuple[str, int]:
    name, _, count = text.partition("=")
    if not name or not count.isdecimal():
        raise click.UsageError(f"--nodes-like: {text!r} is not NODE=N")
    return name, int(count)


@contextlib.contextmanager
def _progress(doing: str) -> Iterator[attempts.Report]:
    """Shows how far it is, on a terminal, and leaves nothing behind."""
    console = rich.console.Console(stderr=True)
    if not console.is_terminal:
        yield attempts.silent
        return
    columns = (
        rich.progress.SpinnerColumn(),
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TextColumn("{task.fields[count]}"),
        rich.progress.TimeElapsedColumn(),
    )
    with rich.progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(doing, total=None, count="")

        def report(done: int, total: int) -> None:
            count = f"{done:,} of {total:,}" if total else (f"{done:,}" if done else "")
            bar.update(task, completed=done, total=total or None, count=count)

        yield report


def _show(
    found: Any,
    output: str,
    show: Callable[..., None],
    document: Callable[[Any], dict[str, Any]],
) -> None:
    if output == "json":
        option = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY
        click.echo(orjson.dumps(document(found), option=option))
        return
    console = rich.console.Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_OF_A_PIPE  # a pipe has no width at which a table must be cut
    show(found, console, wide=output == "wide")


def _placement_document(found: results.Placement) -> dict[str, Any]:
    return {
        "placed": len(found.placed),
        "pending": len(found.pending),
        "reasons": found.reasons(),
        "pods": found.rows(),
        "evictions": [each.row() for each in found.evictions],
        "balance": {
            "before": [each.row() for each in results.balance_of(found.before)],
            "after": [each.row() for each in results.balance_of(found.after)],
        },
        "nodes": found.after.rows(),
        "notes": list(found.notes),
    }


def _drain_document(found: results.Drain) -> dict[str, Any]:
    return {
        "succeeds": found.succeeds,
        "drained": list(found.drained),
        "pods": found.rows(),
        "refusals": [each.row() for each in found.refusals],
        "placement": _placement_document(found.placement),
    }


def _fit_document(found: results.Fit) -> dict[str, Any]:
    return {
        "pod": found.pod,
        "total": found.total,
        "limited": found.limited,
        "reasons": dict(found.reasons),
        "message": found.message,
        "nodes": found.rows(),
        "notes": list(found.notes),
    }


def _comparison_document(found: results.Comparison) -> dict[str, Any]:
    return {
        "configurations": list(found.names),
        "balance": found.balance_rows(),
        "pods": found.rows(),
        "different": len(found.differences()),
        "placements": [_placement_document(side) for side in found.placements],
    }
