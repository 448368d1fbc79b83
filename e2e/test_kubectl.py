"""What kubectl and the official Python client show of a real pod, and do in it."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from e2e import clusters
from whipstaff.cluster import binaries, images, machines

_why = machines.obstacle()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.skipif(_why is not None, reason=f"nodes with real containers: {_why}"),
]

BUSYBOX = "localhost/busybox:1"
TALK = "echo first; echo wrong >&2; i=0; while sleep 0.2; do i=$((i+1)); echo line $i; done"
SERVE = "mkdir /www && head -c 1000000 /dev/urandom > /www/data && exec httpd -f -p 8080 -h /www"
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "box"},
    "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [
            {"name": "talk", "image": BUSYBOX, "command": ["sh", "-c", TALK]},
            {"name": "shell", "image": BUSYBOX, "command": ["sh"], "stdin": True, "tty": True},
            {"name": "cat", "image": BUSYBOX, "command": ["cat"], "stdin": True},
            {"name": "web", "image": BUSYBOX, "command": ["sh", "-c", SERVE]},
        ],
    },
}


def kubectls() -> list[str]:
    """The one on this machine and, where it was built, the control plane's own."""
    found = [
        shutil.which("kubectl"),
        str(binaries.cache_folder(binaries.KUBERNETES_VERSION) / "kubectl"),
    ]
    return [path for path in found if path is not None and os.access(path, os.X_OK)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Cluster]:
    """One node, and on it one pod."""
    made = clusters.Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        made.up(
            "--nodes", "1", "--provider", "cri", "--example=false", "--unsafe-no-fsync",
            "--image", str(images.archive("busybox")),
        )  # fmt: skip
        made.kubectl("apply", "-f", "-", stdin=json.dumps(POD))
        made.kubectl("wait", "--for=condition=Ready", "pod/box", "--timeout=60s")
        yield made
    finally:
        made.down()


class Kubectl:
    """One kubectl, speaking in one way."""

    def __init__(self, path: str, cluster: clusters.Cluster, web_sockets: bool) -> None:
        self._path = path
        self._environment = {
            **cluster.environment,
            "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": str(web_sockets).lower(),
            "KUBECTL_PORT_FORWARD_WEBSOCKETS": str(web_sockets).lower(),
        }

    def __call__(
        self, *arguments: str, data: bytes = b"", code: int | None = 0
    ) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [self._path, *arguments],
            env=self._environment,
            input=data,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert code is None or done.returncode == code, done.stderr.decode()
        return done

    @contextlib.contextmanager
    def running(self, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        with subprocess.Popen(
            [self._path, *arguments],
            env=self._environment,
            stdout=subprocess.PIPE,
            **{"stderr": subprocess.DEVNULL, **options},
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture(params=[True, False], ids=["websocket", "spdy"])
def web_sockets(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=kubectls())
def kubectl(
    request: pytest.FixtureRequest, cluster: clusters.Cluster, web_sockets: bool
) -> Kubectl:
    return Kubectl(request.param, cluster, web_sockets)


@pytest.fixture
def plain(cluster: clusters.Cluster) -> Kubectl:
    return Kubectl(cluster.kubectl_path, cluster, web_sockets=True)


def test_commands_are_run(kubectl: Kubectl) -> None:
    script = "echo out; echo wrong >&2; exit 3"
    done = kubectl("exec", "box", "-c", "talk", "--", "sh", "-c", script, code=3)
    assert done.stdout == b"out\n"
    assert done.stderr.startswith(b"wrong\n")
    missing = kubectl("exec", "box", "-c", "talk", "--", "nonsense", code=None)
    assert missing.returncode != 0
    assert b"nonsense" in missing.stderr


def test_input_reaches_commands_to_its_end(kubectl: Kubectl) -> None:
    data = os.urandom(3_000_000)
    done = kubectl("exec", "-i", "box", "-c", "talk", "--", "sha256sum", data=data)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_a_terminal_is_one_and_has_a_size(kubectl: Kubectl) -> None:
    master, slave = os.openpty()
    try:
        os.set_blocking(master, False)
        script = "tty; stty size < /dev/tty; echo wrong >&2"
        with kubectl.running(
            "exec", "-it", "box", "-c", "talk", "--", "sh", "-c", script,
            stdin=slave, stderr=slave,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            shown = process.stdout.read()
    finally:
        os.close(master)
        os.close(slave)
    assert b"/dev/pts/" in shown
    # A terminal has one output.
    assert b"wrong" in shown


def test_files_are_copied_both_ways(kubectl: Kubectl, tmp_path: pathlib.Path) -> None:
    data = os.urandom(2_000_000)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "there").write_bytes(data)
    kubectl("cp", str(tmp_path / "folder"), "box:/tmp", "-c", "talk")
    kubectl("cp", "box:/tmp/folder/there", str(tmp_path / "back"), "-c", "talk")
    assert (tmp_path / "back").read_bytes() == data


def test_a_running_container_is_attached_to(kubectl: Kubectl) -> None:
    with kubectl.running("attach", "-i", "box", "-c", "cat", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(3):
            time.sleep(0.5)
            process.stdin.write(b"hello\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"hello\n"


def test_ports_are_forwarded(kubectl: Kubectl, cluster: clusters.Cluster) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with kubectl.running("port-forward", "pod/box", f"{port}:8080") as process:
        assert process.stdout is not None
        assert b"Forwarding" in process.stdout.readline()
        found = set()
        for _ in range(5):
            url = f"http://127.0.0.1:{port}/data"
            with urllib.request.urlopen(url, timeout=20) as answer:
                found.add(hashlib.sha256(answer.read()).hexdigest())
    (digest,) = found
    shown = cluster.kubectl("exec", "box", "-c", "web", "--", "sha256sum", "/www/data")
    assert shown.split()[0] == digest


def test_a_pod_is_run_for_once(kubectl: Kubectl) -> None:
    done = kubectl(
        *("run", "once", "--rm", "-i", "--restart=Never", f"--image={BUSYBOX}", "--", "cat"),
        data=b"hi\n",
    )
    assert b"hi\n" in done.stdout


def test_a_pod_is_debugged(plain: Kubectl, cluster: clusters.Cluster) -> None:
    plain(
        "debug", "box", f"--image={BUSYBOX}", "--target=web", "--container=look",
        "--profile=general", "--", "sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline",
    )  # fmt: skip
    shown: list[str] = []

    def there() -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):
            shown[:] = [cluster.kubectl("logs", "box", "-c", "look")]
        return bool(shown and shown[0])

    clusters.eventually(there, seconds=20, text="nothing was logged")
    assert shown[0].startswith("httpd -f -p 8080")


# Logs.


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), lambda text: text.startswith((b"first\n", b"wrong\n"))),
        (("--tail=2",), lambda text: text.count(b"\n") == 2),
        (("--limit-bytes=4",), lambda text: len(text) == 4),
        (("--since=1s",), lambda text: 1 <= text.count(b"\n") <= 8 and b"first" not in text),
        (("--since-time=2999-01-01T00:00:00Z",), lambda text: text == b""),
        (("--timestamps", "--tail=1"), lambda text: text[10:11] == b"T" and b"Z line" in text),
    ],
)  # fmt: skip
def test_logs_are_shown_as_asked_for(
    plain: Kubectl, flags: Sequence[str], expected: Callable[[bytes], bool]
) -> None:
    time.sleep(1)
    text = plain("logs", "box", "-c", "talk", *flags).stdout
    assert expected(text), text


def test_logs_are_followed_as_they_come(plain: Kubectl) -> None:
    with plain.running("logs", "-f", "box", "-c", "talk", "--tail=1") as process:
        assert process.stdout is not None
        process.stdout.readline()
        came = []
        for _ in range(10):
            process.stdout.readline()
            came.append(time.monotonic())
    # One is written every 200 ms.
    assert 1.5 < came[-1] - came[0] < 3


def test_followed_logs_end_with_their_container(plain: Kubectl, cluster: clusters.Cluster) -> None:
    body = {
        **POD,
        "metadata": {"name": "short"},
        "spec": {
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": "app",
                    "image": BUSYBOX,
                    "command": ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 1; done; echo end"],
                }
            ],
        },
    }
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/short", "--timeout=30s")
    assert plain("logs", "-f", "short").stdout == b"1\n2\n3\nend\n"
    assert plain("logs", "short", "--tail=1").stdout == b"end\n"
    refused = plain("logs", "short", "--previous", code=1)
    assert b'previous terminated container "app" in pod "short" not found' in refused.stderr
    cluster.kubectl("delete", "pod", "short")


def test_the_log_before_a_restart_is_shown(plain: Kubectl, cluster: clusters.Cluster) -> None:
    script = "echo run $HOSTNAME; test -e /tmp/x || sleep 1; exit 1"
    cluster.kubectl("run", "again", f"--image={BUSYBOX}", "--", "sh", "-c", script)

    def restarted() -> bool:
        (pod,) = cluster.pods("-l", "run=again")
        statuses = pod["status"].get("containerStatuses") or [{"restartCount": 0}]
        return bool(statuses[0]["restartCount"])

    clusters.eventually(restarted, seconds=60, text="no restart")
    assert plain("logs", "again", "--previous").stdout == b"run again\n"
    cluster.kubectl("delete", "pod", "again", "--now")


# Usage.


def test_usage_is_shown(cluster: clusters.Cluster) -> None:
    def shown(*arguments: str) -> list[str]:
        with contextlib.suppress(subprocess.CalledProcessError):
            return cluster.kubectl("top", *arguments, "--no-headers").splitlines()
        return []

    clusters.eventually(
        lambda: len(shown("pod", "box", "--containers")) == 4, seconds=120, text="no usage"
    )
    assert len(shown("node")) == 1
    raw = cluster.kubectl("get", "--raw", "/api/v1/nodes/node-0/proxy/stats/summary")
    summary = json.loads(raw)
    box = next(pod for pod in summary["pods"] if pod["podRef"]["name"] == "box")
    web = next(each for each in box["containers"] if each["name"] == "web")
    assert web["rootfs"]["usedBytes"] >= 1_000_000
    assert web["memory"]["workingSetBytes"] > 0
    assert web["logs"]["inodesUsed"] == 1
    assert box["network"]["interfaces"][0]["name"] == "eth0"
    assert box["cpu"]["usageNanoCores"] > 0
    assert summary["node"]["fs"]["capacityBytes"] > 0


# The official Python client; in a process of its own, because it leaves sockets open.

PYTHON_CLIENT = """
import sys
from kubernetes import client, config, stream

config.load_kube_config(sys.argv[1])
core = client.CoreV1Api()
box = ("box", "default")
run = core.connect_get_namespaced_pod_exec
print(stream.stream(run, *box, container="talk", command=["echo", "out"], stdout=True, stderr=True))
session = stream.stream(run, *box, container="talk", command=["sh"], stdin=True, stdout=True,
                        stderr=True, _preload_content=False)
session.write_stdin("echo $((40 + 2)); exit 4\\n")
session.run_forever(timeout=10)
print(session.read_stdout(), session.returncode)
forward = stream.portforward(core.connect_get_namespaced_pod_portforward, *box, ports="8080")
connected = forward.socket(8080)
connected.setblocking(True)
connected.sendall(b"GET /nothing HTTP/1.0\\r\\n\\r\\n")
print(connected.recv(12))
print(core.read_namespaced_pod_log(*box, container="talk", tail_lines=1))
"""


def test_the_python_client_gets_into_pods(cluster: clusters.Cluster) -> None:
    pytest.importorskip("kubernetes")
    done = subprocess.run(
        [sys.executable, "-c", PYTHON_CLIENT, cluster.kubeconfig],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    written = done.stdout.split("\n")
    assert written[:-2] == ["out", "", "42", " 4", "b'HTTP/1.1 404'", written[-3]], done.stderr
    assert written[-3].startswith("line ")
