"""`whipstaff twin`: be a second node beside a kubelet, from inside a privileged pod.

The flags, the checks that come before anything starts, and the order of things: control group,
containerd, images, agent; and at the end, pods, agent, sandboxes, Node, containerd, control group,
data. Whatever is wrong with the flags is one line and exit code 2.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import socket

import click
import yaml

from whipstaff.node_agent import configuration
from whipstaff.node_agent.cgroups import hierarchies
from whipstaff.node_agent.twin import farewell, runtime, settings, supervisor
from whipstaff.runtime import config, errors, flags

_FOLDER = click.Path(path_type=pathlib.Path)
_IMAGE_PLUGINS = pathlib.Path("/usr/lib/cni")
_START = 60.0


@click.command("twin", context_settings={"ignore_unknown_options": True})
@click.option("--of", "of", required=True, metavar="NODE", help="The stock node's name.")
@click.option("--name-suffix", default="-twin", show_default=True, help="Follows it in the twin's.")
@click.option(
    "--config", "config_file", metavar="FILE", help="The agent's, over what makes a twin of it."
)
@flags.kubeconfig_option
@click.option(
    "--port", type=click.IntRange(1, 65535), default=10350, show_default=True, help="The agent's."
)
@click.option(
    "--data-dir",
    type=_FOLDER,
    default=pathlib.Path("/var/lib/whipstaff-twin"),
    show_default=True,
    help="For images, volumes and logs: a volume, emptied at the end.",
)
@click.option(
    "--run-dir",
    type=_FOLDER,
    default=pathlib.Path("/run/whipstaff-twin"),
    show_default=True,
    help="For sockets.",
)
@click.option(
    "--cni-conf-dir",
    type=_FOLDER,
    default=pathlib.Path("/etc/cni/net.d"),
    show_default=True,
    help="The machine's CNI configuration.",
)
@click.option(
    "--cni-bin-dir",
    type=_FOLDER,
    default=pathlib.Path("/opt/cni/bin"),
    show_default=True,
    help="The machine's CNI plugins; the image has its own of those that aren't there.",
)
@click.option(
    "--sandbox-image",
    default="registry.k8s.io/pause:3.10.2",
    show_default=True,
    help="Holds a pod's namespaces together.",
)
@click.option(
    "--host-containerd",
    type=_FOLDER,
    default=pathlib.Path("/run/containerd/containerd.sock"),
    show_default=True,
    help="Socket of the machine's containerd, from which images are copied if it is there.",
)
@click.option(
    "--copy-image",
    "images",
    multiple=True,
    metavar="IMAGE",
    help="An image that is copied besides the sandbox image. May be given several times.",
)
@click.option(
    "--drain-timeout",
    type=flags.Duration(),
    default="20s",
    show_default=True,
    help="How long pods may take to end by themselves at the end.",
)
@click.argument("agent_flags", nargs=-1, type=click.UNPROCESSED)
@flags.logging_options
def command(
    of: str,
    name_suffix: str,
    config_file: str | None,
    kubeconfig: str | None,
    port: int,
    data_dir: pathlib.Path,
    run_dir: pathlib.Path,
    cni_conf_dir: pathlib.Path,
    cni_bin_dir: pathlib.Path,
    sandbox_image: str,
    host_containerd: pathlib.Path,
    images: tuple[str, ...],
    drain_timeout: float,
    agent_flags: tuple[str, ...],
) -> None:
    """Be a second node on a machine that has one, from inside a privileged pod.

    AGENT_FLAGS are handed to `whipstaff node-agent`.
    """
    if os.geteuid() != 0:
        raise errors.StartupError("a twin takes root: its pod has to be privileged")
    twin = settings.Twin(
        of=of,
        name=f"{of}{name_suffix}",
        data=data_dir,
        run=run_dir,
        cni_conf=cni_conf_dir,
        cni_bin=(cni_bin_dir, _IMAGE_PLUGINS),
        sandbox_image=sandbox_image,
    )
    if not name_suffix:
        raise errors.ConfigurationError("--name-suffix: the twin needs a name of its own")
    document = settings.agent_configuration(twin, _given(config_file))
    connection = config.load(kubeconfig)
    runtime.check_network(cni_conf_dir)
    groups = _groups(twin)
    _write(twin, document)
    told = ("--port", str(port), *(("--kubeconfig", kubeconfig) if kubeconfig else ()))
    watched = supervisor.Supervisor()
    containerd = watched.start("containerd", ("containerd", "--config", str(_toml(twin))))
    agent = None
    try:
        watched.run(until=lambda: _answers(twin.socket))
        if not watched.told:
            runtime.copy_images(twin, host_containerd, (sandbox_image, *images))
            arguments = settings.agent_command(twin, _yaml(twin), (*told, *agent_flags))
            agent = watched.start("node-agent", arguments)
            watched.run(until=lambda: False)
            asyncio.run(farewell.drain(twin.name, connection, drain_timeout))
    finally:
        if agent is not None:
            watched.stop(agent, 10)
        if _answers(twin.socket):
            asyncio.run(farewell.remove_sandboxes(twin))
        asyncio.run(farewell.forget(twin, connection))
        watched.stop(containerd, 10)
        farewell.remove_groups(twin, groups)
        farewell.remove_data(twin)


def _given(file: str | None) -> dict[str, object]:
    """The user's configuration, checked as the agent would check it."""
    if file is None:
        return {}
    configuration.load(file)
    found: dict[str, object] = yaml.safe_load(pathlib.Path(file).read_text(encoding="utf-8"))
    return found


def _groups(twin: settings.Twin) -> hierarchies.Hierarchy:
    """The machine's control groups, with the twin's made, and emptied of what there was before."""
    mounts = pathlib.Path("/proc/self/mountinfo").read_text()
    for line in mounts.splitlines():
        fields, _, kind = line.partition(" - ")
        top, point = fields.split()[3:5]
        if kind.startswith("cgroup") and point.startswith("/sys/fs/cgroup") and top != "/":
            raise errors.StartupError(
                f"{point} shows only {top}: the machine's /sys/fs/cgroup has to be mounted there"
            )
    try:
        groups = hierarchies.find(mounts)
        groups.remove(twin.cgroup)
        groups.create(twin.cgroup)
    except OSError as error:
        raise errors.StartupError(
            f"the control group {twin.cgroup} can't be made: {error}"
        ) from None
    return groups


def _write(twin: settings.Twin, document: dict[str, object]) -> None:
    for folder in (twin.data, twin.run, twin.root):
        folder.mkdir(parents=True, exist_ok=True)
    runtime.link_plugins(twin)
    status = pathlib.Path("/proc/self/status").read_text()
    restricts = runtime.restricts_oom(status)
    _toml(twin).write_text(runtime.config(twin, restrict_oom=restricts))
    _yaml(twin).write_text(yaml.safe_dump(document))


def _toml(twin: settings.Twin) -> pathlib.Path:
    return twin.run / "containerd.toml"


def _yaml(twin: settings.Twin) -> pathlib.Path:
    return twin.run / "agent.yaml"


def _answers(path: pathlib.Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
