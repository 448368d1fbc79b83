"""Brings a local cluster up and takes it down.

Answers to kind's ``create cluster`` and ``delete cluster``. Runs in the user's command and ends
with it; what goes on is the supervisor (`whipstaff.cluster.supervisor`), which it starts and ends.
One ``up`` or ``down`` works on a data directory at a time. Both may be called in any state: after a
kill, after a reboot, twice.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import fcntl
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil

from whipstaff.cluster import (
    binaries,
    certificates,
    components,
    containerd,
    files,
    images,
    kubeconfigs,
    layout,
    machines,
    nodes,
    plan,
    ports,
    processes,
    progress,
    provisioning,
    state,
    waiting,
)
from whipstaff.runtime import errors

_T = TypeVar("_T")
_POLL = 0.05
_SUPERVISOR_GRACE = 60.0  # seconds in which it ends all components, one wave after another
_LEFTOVER_GRACE = 2.0


@dataclass(frozen=True, slots=True)
class Options:
    """How ``up`` works, as opposed to what the cluster is.

    Attributes:
        assets: a folder with the binaries to use.
        update_kubeconfig: give the user's kubeconfig a context for the cluster.
        example: end with the example Deployment.
        wait: seconds for all nodes to be Ready; 0 doesn't look.
    """

    assets: pathlib.Path | None = None
    update_kubeconfig: bool = True
    example: bool = True
    wait: float = 60.0


def up(
    place: layout.Layout, asked: Mapping[str, Any], options: Options, show: progress.Progress
) -> None:
    """Start the cluster, or find that it runs.

    Args:
        place: the cluster's data directory.
        asked: fields of `plan.Spec` that the user gave; others stay as they were.
        options: how to go about it.
        show: where progress goes.

    Raises:
        ConfigurationError: something given can't be used.
        StartupError: a component doesn't come up (and all are ended again), or the nodes don't.
    """
    with _alone(place):
        planned, running = plan.Plan.load(place), state.State.load(place)
        begun = time.monotonic()
        if planned is not None and running is not None and running.supervised:
            _refuse_changes(place, planned, asked)
            if not running.settled:
                waiting.components_serve(place, None, show)
            if options.update_kubeconfig and planned.user_kubeconfig is None:
                planned = _add_context(place, planned, show)
            _wait(place, planned, dataclasses.replace(options, example=False), show)
            show.line(f"\nCluster {place.name} runs already ({_summary(planned)}).")
            _warn_of_expiry(place, show)
        else:
            _refuse_strange_folder(place)
            _end_leftovers(place, running)
            planned = _start(place, planned, asked, options, show)
            _wait(place, planned, options, show)
            took = time.monotonic() - begun
            show.line(f"\nCluster {place.name} is up after {took:.1f} s ({_summary(planned)}).")
        _hints(place, planned, show)


def down(place: layout.Layout, show: progress.Progress, *, keep_data: bool) -> bool:
    """End everything that runs and delete the cluster; whether there was one.

    Args:
        place: the cluster's data directory.
        show: where progress goes.
        keep_data: keep what etcd stores, certificates and settings, for the next ``up``.
    """
    if not place.plan.exists() and not machines.left(place.root):
        return False
    with _alone(place):
        planned = _if_readable(plan.Plan.load, place)
        running = _if_readable(state.State.load, place)
        with show.step("Processes") as step:
            ended = _end_supervisor(running, step) + _end_leftovers(place, running)
            step.result = f"{ended} ended" if ended else "none were running"
        if machines.left(place.root):
            with show.step("Machines") as step:
                machines.clean(place.root, data=not keep_data)
                step.result = "containers ended, networks and control groups removed"
        ports.release(_ledger(), str(place.root))
        if planned is not None:
            _remove_context(planned, show)
            if keep_data:
                dataclasses.replace(planned, user_kubeconfig=None).save(place)
        if not keep_data:
            _delete(place)
            show.done("Data", f"{place.root} deleted")
    return True


def _remove_context(planned: plan.Plan, show: progress.Progress) -> None:
    if planned.user_kubeconfig is not None and planned.context is not None:
        path = pathlib.Path(planned.user_kubeconfig)
        kubeconfigs.remove_from(path, planned.context, planned.previous_context)
        show.done("Kubeconfig", f"context {planned.context} removed from {path}")


def _delete(place: layout.Layout) -> None:
    """Delete what is ours; a folder that holds something else as well stays with that."""
    for folder in (place.etcd, place.logs, place.kubeconfigs, place.pki):
        if folder.exists():
            shutil.rmtree(folder)
    for file in (place.state, place.lock, place.plan):
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(place: layout.Layout) -> Iterator[None]:
    files.private_folder(place.root)
    with place.busy.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise errors.StartupError(
                f"another `whipstaff up` or `down` is at work on {place.root}"
            ) from None
        try:
            yield
        finally:
            if not place.plan.exists():
                place.busy.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # it holds something that isn't ours
                    place.root.rmdir()


def _if_readable(load: Callable[[layout.Layout], _T | None], place: layout.Layout) -> _T | None:
    """What was written down; that it is damaged must not keep ``down`` from working."""
    try:
        return load(place)
    except errors.ConfigurationError:
        return None


def _refuse_strange_folder(place: layout.Layout) -> None:
    """A folder with contents that aren't a cluster must be a mistake, and is left alone."""
    strange = {found.name for found in place.root.iterdir()} - {place.busy.name}
    if strange and not place.plan.exists():
        raise errors.ConfigurationError(
            f"--data-dir: {place.root} holds {min(strange)!r} and no cluster: name a new folder"
        )


def _refuse_changes(place: layout.Layout, planned: plan.Plan, asked: Mapping[str, Any]) -> None:
    if differences := planned.spec.differences(asked):
        raise errors.StartupError(
            f"the cluster in {place.root} runs with {'; '.join(differences)}: "
            "`whipstaff down` first (--keep-data keeps what is in it)"
        )


def _start(
    place: layout.Layout,
    before: plan.Plan | None,
    asked: Mapping[str, Any],
    options: Options,
    show: progress.Progress,
) -> plan.Plan:
    """From nothing to all components serving."""
    spec = dataclasses.replace(before.spec if before else plan.Spec(), **asked)
    why = None
    if before is None and "provider" not in asked:
        provider, why = provisioning.provider(spec)
        spec = dataclasses.replace(spec, provider=provider)
    provisioning.check(spec, place)
    if options.update_kubeconfig:
        kubeconfigs.read(kubeconfigs.user_path())  # one that can't be read stops it now, not later
    with show.step("Binaries") as step:
        names = (*components.needed_binaries(frozenset(spec.stock), spec.provider), "kubectl")
        found = binaries.resolve(
            names, version=spec.kubernetes_version, assets=options.assets, report=step.update
        )
        step.result = f"Kubernetes {spec.kubernetes_version}, {found['kube-apiserver'].parent}"
    planned = plan.Plan(
        spec=spec,
        ports=_ports(place, before),
        binaries={name: str(path) for name, path in found.items()},
    )
    planned.save(place)
    if why is not None:
        show.done("Provider", f"{spec.provider}: {why}")
    if spec.provider == components.CRI and spec.nodes:
        planned = provisioning.make_machines(place, planned, before, show)
    elif machines.left(place.root):
        machines.clean(place.root)
    with show.step("Certificates") as step:
        now = datetime.datetime.now(datetime.UTC)
        pki = certificates.ensure(place.pki, now, planned.hosts)
        settings = planned.settings(place, pki)
        _write_kubeconfigs(place, settings)
        nodes.configure(settings, now)
        expiry = certificates.expiry(pki.apiserver.certificate)
        step.result = f"valid until {expiry:%Y-%m-%d}, in {place.pki}"
    supervisor = _launch(place)
    try:
        waiting.components_serve(place, supervisor, show)
    except BaseException:
        _end_supervisor(state.State.load(place), None)
        _end_leftovers(place, None)
        machines.clean(place.root, data=False)
        ports.release(_ledger(), str(place.root))
        raise
    if options.update_kubeconfig:
        planned = _add_context(place, planned, show)
    return planned


def _ports(place: layout.Layout, before: plan.Plan | None) -> components.Ports:
    preferred = dataclasses.asdict(before.ports if before else components.Ports())
    reserved = ports.reserve(_ledger(), str(place.root), preferred, time.time(), _lives)
    return components.Ports(**reserved)


def _lives(root: str) -> bool:
    """Whether there is a cluster with this data directory that runs."""
    running = _if_readable(state.State.load, layout.Layout(pathlib.Path(root)))
    return running is not None and running.supervised


def _ledger() -> pathlib.Path:
    return layout.cache_dir() / "ports.json"


def _write_kubeconfigs(place: layout.Layout, settings: components.Settings) -> None:
    """One for the administrator and one for each component."""
    ca, now = settings.pki.ca, datetime.datetime.now(datetime.UTC)
    pairs = {"admin": (place.name, settings.pki.admin)}
    for name, user in components.users(settings.stock, settings.provider).items():
        pairs[name] = (
            user,
            ca.ensure_pair(settings.pki.folder, name, certificates.Subject(user), now),
        )
    for name, (user, pair) in pairs.items():
        document = kubeconfigs.document(
            place.name, user, settings.server, ca.pair.certificate, pair, **_known(settings)
        )
        kubeconfigs.write(place.kubeconfig(name), document)


def _known(settings: components.Settings) -> dict[str, str]:
    """What our commands are to find in a kubeconfig: our scheduler's address."""
    if "scheduler" in settings.stock:
        return {}
    return {"scheduler": f"https://{ports.LOOPBACK}:{settings.ports.scheduler}"}


def _launch(place: layout.Layout) -> processes.Process:
    """Start the supervisor, which outlives this command; older logs are kept once, as ``.1``."""
    for log in place.logs.glob("*.log"):
        log.replace(log.with_suffix(".log.1"))
    place.state.unlink(missing_ok=True)
    command = (sys.executable, "-m", "whipstaff.cluster.supervisor", "--data-dir", str(place.root))
    return processes.Process.start(
        "supervisor",
        command,
        place.log("supervisor"),
        owner=place.root,
        environ=layout.bytecode_cache(),
    )


def _wait(
    place: layout.Layout, planned: plan.Plan, options: Options, show: progress.Progress
) -> None:
    if planned.spec.nodes and options.wait:
        asyncio.run(
            waiting.nodes_and_example(
                place, planned, show, wait=options.wait, with_example=options.example
            )
        )


def _add_context(
    place: layout.Layout,
    planned: plan.Plan,
    show: progress.Progress,
) -> plan.Plan:
    """Give the user's kubeconfig a context for the cluster, as kind and minikube do."""
    path = kubeconfigs.user_path()
    settings = planned.settings(place, certificates.load(place.pki))
    name, previous = kubeconfigs.add_to(
        path, place, settings.server, settings.pki, **_known(settings)
    )
    changed = dataclasses.replace(
        planned, user_kubeconfig=str(path), context=name, previous_context=previous
    )
    changed.save(place)
    show.done("Kubeconfig", f"context {name} is current in {path}")
    return changed


def _warn_of_expiry(place: layout.Layout, show: progress.Progress) -> None:
    expiry = certificates.expiry(place.pki / "apiserver.crt")
    if expiry - datetime.datetime.now(datetime.UTC) < certificates.RENEW_BEFORE:
        show.line(
            f"Its certificates expire on {expiry:%Y-%m-%d}: `whipstaff down --keep-data` and "
            "`whipstaff up` renew them."
        )


def _summary(planned: plan.Plan) -> str:
    count = f"{planned.spec.nodes} {planned.spec.provider}" if planned.spec.nodes else "no"
    return f"Kubernetes {planned.spec.kubernetes_version}, {count} nodes, {planned.server}"


def _hints(place: layout.Layout, planned: plan.Plan, show: progress.Progress) -> None:
    which = "" if place.root == layout.default_data_dir() else f" --data-dir {place.root}"
    kubectl = planned.binaries.get("kubectl", "kubectl")
    if shutil.which("kubectl") == kubectl:
        kubectl = "kubectl"
    show.line("Try next:")
    if planned.user_kubeconfig is None:
        show.line(f"  export KUBECONFIG={place.kubeconfig('admin')}")
    image, replicas = ("nginx", 50) if planned.network is None else (images.WEB, 5)
    for command in (
        f"{kubectl} create deployment web --image={image} --replicas={replicas}",
        f"{kubectl} get pods -o wide",
        f"whipstaff status{which}",
        f"whipstaff down{which}",
    ):
        show.line(f"  {command}")


def _end_supervisor(running: state.State | None, step: progress.Step | None) -> int:
    """End the supervisor in order, and with it what it runs; how many processes that were."""
    if running is None or (process := running.supervisor.process()) is None:
        return 0
    count = 1 + sum(component.process is not None for component in running.components)
    if step is not None:
        step.update("ending")
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
    deadline = time.monotonic() + _SUPERVISOR_GRACE
    while running.supervisor.process() is not None and time.monotonic() < deadline:
        time.sleep(_POLL)
    return count


def _end_leftovers(place: layout.Layout, running: state.State | None) -> int:
    """End what a killed or hanging supervisor left behind; how many processes that were."""
    known = []
    if running is not None:
        known = [running.supervisor]
        known += [c.process for c in running.components if c.process is not None]
    # The supervisor first, and for good: it would start again what ends before it.
    count = processes.end(known[:1], grace=0) + processes.end(known[1:], _LEFTOVER_GRACE)
    # What holds containers stays: they outlive the processes that started them.
    while strays := processes.owned_by(place.root, but=containerd.SHIM):
        count += processes.end(strays, _LEFTOVER_GRACE)
    place.state.unlink(missing_ok=True)
    return count
