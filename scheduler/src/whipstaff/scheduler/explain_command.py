"""`whipstaff explain pod NAME`: why a pod is where it is, or why it is nowhere.

Reads and prints, and never writes to the cluster. The scheduler's own decision is asked for where
the scheduler can be found (`asking`); otherwise the cluster is listed and the same engine decides
about the pod here and now (`offline`, `explaining`).

Answers to nothing upstream; `kubectl whipstaff explain` is the same command.
"""

import asyncio
import dataclasses
import difflib
from typing import Any

import click
import orjson
import rich.console

from whipstaff.runtime import client, config, errors, flags, objects, resources

Object = dict[str, Any]

TABLE, WIDE, JSON, YAML = "table", "wide", "json", "yaml"
AUTO, RECORDED, COMPUTED = "auto", "recorded", "computed"

_KINDS = frozenset({"pod", "pods", "po"})


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    name: str
    namespace: str | None
    source: str
    address: str | None
    ca_file: str | None
    config_file: str | None
    nodes: tuple[str, ...]
    everything: bool


@click.command("explain")
@click.argument("words", nargs=-1, required=True, metavar="pod NAME")
@click.option("-n", "--namespace", metavar="NS", help="The pod's namespace.")
@flags.kubeconfig_option
@click.option("--context", metavar="NAME", help="A context of the kubeconfig.")
@click.option(
    "-o",
    "--output",
    type=click.Choice([TABLE, WIDE, JSON, YAML]),
    default=TABLE,
    show_default=True,
    help="How to print it; wide shows how weighted scores come about.",
)
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="Only about these nodes.")
@click.option(
    "--all", "everything", is_flag=True, help="List every node, also those that don't do."
)
@click.option(
    "--source",
    type=click.Choice([AUTO, RECORDED, COMPUTED]),
    default=AUTO,
    show_default=True,
    help="The scheduler's own decision, or one made now; auto takes the first where it is known.",
)
@click.option(
    "--scheduler-address",
    "address",
    metavar="URL",
    help="Where the scheduler serves, such as https://127.0.0.1:10259. "
    "Without it: what the kubeconfig says, as that of a local cluster does.",
)
@click.option(
    "--scheduler-ca-file",
    "ca_file",
    type=click.Path(exists=True, dir_okay=False),
    help="CA of the scheduler's certificate.",
)
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    help="The scheduler's KubeSchedulerConfiguration, for decisions made now.",
)
@flags.logging_options
def command(
    words: tuple[str, ...],
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
    output: str,
    **rest: Any,
) -> None:
    """Say why a pod is where it is, or why it is Pending: every node, plugin by plugin."""
    wanted = Wanted(_name(words), namespace, **rest)
    connection = config.load(kubeconfig, context)
    document = asyncio.run(_explain(connection, wanted))
    _print(document, output)


def _name(words: tuple[str, ...]) -> str:
    parts = tuple(words[0].split("/", 1)) if len(words) == 1 else words
    if len(parts) != 2 or parts[0].lower() not in _KINDS or not parts[1]:
        raise click.UsageError("what to explain is `pod NAME`")
    return parts[1]


async def _explain(connection: config.Connection, wanted: Wanted) -> Object:
    namespace = wanted.namespace or connection.namespace
    async with client.Client(connection, user_agent="whipstaff-explain") as api:
        raw = await _pod(api, wanted.name, namespace)
        notes: list[str] = []
        if wanted.source != COMPUTED:
            found = await _ask(connection, api, raw, wanted, notes)
            if found is not None:
                return found
        return await _computed(api, raw, wanted, notes)


async def _ask(
    connection: config.Connection,
    api: client.Client,
    raw: Object,
    wanted: Wanted,
    notes: list[str],
) -> Object | None:
    """What the scheduler remembers; None with a note where it is to be decided now."""
    from whipstaff.scheduler import asking  # noqa: PLC0415 (help and mistakes needn't wait for it)

    scheduler = asking.find(connection, wanted.address, wanted.ca_file)
    if scheduler is None:
        if wanted.source == RECORDED:
            raise errors.ConfigurationError(
                "where the scheduler serves isn't known: give --scheduler-address"
            )
        notes += filter(None, [await asking.hint(api)])
        return None
    try:
        found = await _recorded(scheduler, raw, wanted)
    except errors.WhipstaffError as error:
        if wanted.source == RECORDED or wanted.address is not None:
            raise
        notes.append(f"the scheduler can't be asked ({error})")
        return None
    if found is None:
        text = "the scheduler doesn't remember its decision on this pod"
        if wanted.source == RECORDED:
            raise errors.WhipstaffError(f"{text}; --source=computed decides now")
        notes.append(text)
    return found


async def _pod(api: client.Client, name: str, namespace: str) -> Object:
    try:
        return await api.get(resources.PODS, name, namespace)
    except errors.NotFound:
        pods = [objects.name(each) for each in await api.list(resources.PODS, namespace)]
        text = f"there is no pod {name} in the namespace {namespace}"
        if near := difflib.get_close_matches(name, pods, 3):
            text += f"; there is {', '.join(near)}"
        elif not pods:
            text += ", which has no pods at all: another one is given by -n"
        raise errors.WhipstaffError(text) from None
    except ValueError as error:
        raise click.UsageError(str(error)) from error


async def _recorded(scheduler: Any, raw: Object, wanted: Wanted) -> Object | None:
    """The scheduler's decision; None where it doesn't know (enough of) one about this very pod."""
    query: list[tuple[str, str]] = [
        ("namespace", objects.namespace(raw)),
        ("name", objects.name(raw)),
        ("nodes", "all" if wanted.everything else ""),
    ]
    query += [("node", name) for name in wanted.nodes]
    found: Object | None = await scheduler.get("/debug/explain", query)
    if found is None or found["uid"] != objects.uid(raw):
        return None
    return found if found["explained"] or not found["evaluated"] else None


async def _computed(api: client.Client, raw: Object, wanted: Wanted, notes: list[str]) -> Object:
    """Lists the cluster and decides about the pod."""
    from whipstaff.scheduler import (  # noqa: PLC0415
        app,
        explaining,
        framework,
        offline,
        report,
    )

    if objects.is_finished(raw):
        phase = raw["status"]["phase"]
        raise errors.WhipstaffError(f"the pod has ended ({phase}), so no node is wanted for it")
    settings = await _settings(api.connection, wanted, notes)
    profiles = app.build_profiles(settings)
    name = raw["spec"].get("schedulerName") or "default-scheduler"
    plugins = profiles.get(name)
    if plugins is None:
        plugins = next(iter(profiles.values()))
        if settings.source:
            used = f"decided as {plugins.scheduler_name} would"
            notes.append(f"{settings.source} has no profile called {name}: {used}")
        else:
            notes.append(f"decided with the default plugins; the pod asks for the scheduler {name}")
    if settings.extenders:
        notes.append("extenders aren't asked")
    notes += await _circumstances(api, raw, name)
    listed = await offline.read(api)
    notes += [f"{kind} couldn't be read: {text}" for kind, text in listed.unread.items()]
    there = offline.Offline(listed.objects, profiles)
    limit = None if wanted.everything else report.FEW
    scope = report.Scope(limit, frozenset(wanted.nodes))
    try:
        document = explaining.computed(there, raw, plugins, scope)
    except framework.PluginError as error:
        raise errors.WhipstaffError(f"a plugin failed: {error}") from error
    missing = [node for node in wanted.nodes if node not in there.cluster.row_of]
    notes += [f"there is no node {node}" for node in missing]
    document["notes"] = [*notes, *document["notes"]]
    return document


async def _settings(connection: config.Connection, wanted: Wanted, notes: list[str]) -> Any:
    """The configuration to decide by: the file's, the scheduler's own, or the defaults."""
    from whipstaff.scheduler import app, asking, configuration, profile  # noqa: PLC0415

    known = profile.installed()
    if wanted.config_file is not None:
        return configuration.load(wanted.config_file, external=known)
    scheduler = asking.find(connection, wanted.address, wanted.ca_file)
    if scheduler is not None:
        try:
            shown = await scheduler.get("/configz") or {}
            document = shown.get(configuration.API_VERSION.partition("/")[0])
            if document is not None:
                found = configuration.of_document(document, scheduler.address, external=known)
                app.build_profiles(found)  # it may name plugins that aren't installed here
                return found
        except errors.WhipstaffError as error:
            notes.append(f"the scheduler's configuration can't be used here ({error})")
    return configuration.Configuration()


async def _circumstances(api: client.Client, raw: Object, scheduler: str) -> list[str]:
    """What else there is to know of the pod's way."""
    if objects.is_terminating(raw):
        return ["the pod is being deleted"]
    if raw["spec"].get("nodeName"):
        selector = f"regarding.name={objects.name(raw)},reason=Scheduled"
        try:
            found = await api.list(
                resources.EVENTS, objects.namespace(raw), field_selector=selector
            )
        except errors.Forbidden:
            return []
        by = {
            event.get("reportingController")
            for event in found
            if event.get("regarding", {}).get("uid") == objects.uid(raw)
        }
        return [f"it was placed by {who}" for who in sorted(filter(None, by))]
    if objects.condition(raw, "PodScheduled") is None:
        return [f"no scheduler has tried it yet: is one called {scheduler} running?"]
    return []


def _print(document: Object, output: str) -> None:
    if output == JSON:
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
    elif output == YAML:
        import yaml  # noqa: PLC0415

        click.echo(yaml.safe_dump(document, sort_keys=False), nl=False)
    else:
        from whipstaff.scheduler import explain_tables  # noqa: PLC0415

        console = rich.console.Console(highlight=False)
        if not console.is_terminal:
            console.width = explain_tables.UNLIMITED
        explain_tables.print_document(document, console, wide=output == WIDE)
