"""Runs a second containerd on a stock node, apart from the node's own in all that it has.

Enters the machine's mounts (a privileged container that sees the machine's processes may), makes a
control group outside of this pod's so that the containers outlive it, writes the configuration, and
becomes containerd. Images that the node has already are copied over beside it.
"""

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

CGROUP = "whipstaff-twin"
CGROUPS = pathlib.Path("/sys/fs/cgroup")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE = 60.0  # seconds that containerd has to serve


def main() -> None:
    """Become containerd; the copying is left to a child."""
    settings = {name: os.environ[name] for name in os.environ if name.isupper()}
    with pathlib.Path("/proc/1/ns/mnt").open("rb") as machine:
        os.setns(machine.fileno(), os.CLONE_NEWNS)
    os.chdir("/")
    for folder in (settings["DATA_DIR"], settings["RUN_DIR"]):
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True, mode=0o711)
    file = pathlib.Path(settings["DATA_DIR"], "containerd.toml")
    file.write_text(configuration(settings))
    for group in groups():
        (group / "cgroup.procs").write_text(str(os.getpid()))
    environ = {**os.environ, "PATH": PATH}
    leave_behind(lambda: copy_images(settings, environ))
    os.execvpe(settings["CONTAINERD"], [settings["CONTAINERD"], "--config", str(file)], environ)


def leave_behind(work: Callable[[], None]) -> None:
    """Have something done by a process that is nobody's child."""
    if (child := os.fork()) == 0:
        if os.fork() == 0:
            work()
        os._exit(0)
    os.waitpid(child, 0)


def groups() -> list[pathlib.Path]:
    """The control group of the runtime, in every hierarchy; that of the pods is beside it."""
    unified = (CGROUPS / "cgroup.controllers").exists()
    roots = [CGROUPS] if unified else [path for path in CGROUPS.iterdir() if not path.is_symlink()]
    made = []
    for root in roots:
        if not (root / "cgroup.procs").exists():
            continue
        for name in ("runtime", "pods"):
            make_group(root, root / CGROUP / name, unified=unified)
        made.append(root / CGROUP / "runtime")
    return made


def make_group(root: pathlib.Path, group: pathlib.Path, *, unified: bool) -> None:
    """Make a group and those above it, with all controllers, processors and memory nodes."""
    for path in (*reversed(group.relative_to(root).parents[:-1]), group.relative_to(root)):
        here = root / path
        here.mkdir(exist_ok=True)
        if unified:
            controllers = (here.parent / "cgroup.controllers").read_text().split()
            text = " ".join(f"+{controller}" for controller in controllers)
            (here.parent / "cgroup.subtree_control").write_text(text)
        elif (here / "cpuset.cpus").exists() and not (here / "cpuset.cpus").read_text().strip():
            for name in ("cpuset.cpus", "cpuset.mems"):
                (here / name).write_text((here.parent / name).read_text())


def configuration(settings: dict[str, str]) -> str:
    """The configuration file of containerd: everything that it keeps is below two folders."""
    data, run = settings["DATA_DIR"], settings["RUN_DIR"]
    cri = "plugins.'io.containerd.grpc.v1.cri'"
    runc = f"{cri}.containerd.runtimes.runc"
    sections: dict[str, dict[str, object]] = {
        "": {"version": 2, "root": f"{data}/containerd", "state": f"{run}/state"},
        "grpc": {"address": f"{run}/containerd.sock"},
        "plugins.'io.containerd.internal.v1.opt'": {"path": f"{data}/containerd/opt"},
        cri: {
            "sandbox_image": settings["SANDBOX_IMAGE"],
            "restrict_oom_score_adj": True,
            "tolerate_missing_hugetlb_controller": True,
            "stream_server_address": "127.0.0.1",
            "stream_server_port": "0",
            "netns_mounts_under_state_dir": True,
            "enable_unprivileged_ports": True,
            "enable_unprivileged_icmp": True,
        },
        f"{cri}.cni": {
            "bin_dir": settings["CNI_BIN_DIR"],
            "conf_dir": settings["CNI_CONFIG_DIR"],
        },
        f"{cri}.containerd": {"default_runtime_name": "runc", "discard_unpacked_layers": False},
        f"{cri}.registry": {"config_path": "/etc/containerd/certs.d"},
        runc: {"runtime_type": "io.containerd.runc.v2"},
        f"{runc}.options": {"SystemdCgroup": False, "Root": f"{run}/runc"},
    }
    texts = []
    for name, values in sections.items():
        head = [f"[{name}]"] if name else []
        # JSON's strings, numbers and booleans are TOML's.
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        texts.append("\n".join([*head, *lines, ""]))
    return "\n".join(texts)


def copy_images(settings: dict[str, str], environ: dict[str, str]) -> None:
    """Copy images from the node's own containerd; what it hasn't is pulled when asked for."""
    source, target = settings["HOST_SOCKET"], f"{settings['RUN_DIR']}/containerd.sock"
    if not source or not pathlib.Path(source).exists():
        return
    deadline = time.monotonic() + PATIENCE
    while not serves(target, environ):
        if time.monotonic() > deadline:
            sys.exit("containerd doesn't serve: no images are copied")
        time.sleep(0.5)
    for image in settings["HOST_IMAGES"].split():
        exported = subprocess.Popen(
            ctr(source, "images", "export", "-", image),
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        imported = subprocess.run(
            ctr(target, "images", "import", "-"),
            env=environ,
            stdin=exported.stdout,
            capture_output=True,
            check=False,
        )
        _, said = exported.communicate()
        done = exported.returncode == 0 and imported.returncode == 0
        text = "copied" if done else f"not copied: {(said or imported.stderr).decode().strip()}"
        print(f"{image}: {text}", file=sys.stderr, flush=True)


def serves(socket: str, environ: dict[str, str]) -> bool:
    """Whether a containerd answers there."""
    asked = subprocess.run(ctr(socket, "version"), env=environ, capture_output=True, check=False)
    return asked.returncode == 0


def ctr(socket: str, *arguments: str) -> list[str]:
    """A command for a containerd, about what its CRI plugin sees."""
    return ["ctr", "--address", socket, "--namespace", "k8s.io", *arguments]


if __name__ == "__main__":
    main()
