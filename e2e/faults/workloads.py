"""Pods of all kinds, and a restless user who makes, scales and deletes them.

Each container notes its start in a ledger: a line in the file ``UID.NAME`` of a folder that the
node shares with its pods. So it is known how often something really ran, whatever statuses say.
"""

from __future__ import annotations

import pathlib
import random
from collections.abc import Callable, Mapping
from typing import Any

from e2e.faults import bench, witness

Object = dict[str, Any]

FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.2; done"
STUBBORN = "trap '' TERM; while :; do sleep 0.2; done"


def container(name: str, script: str, **fields: Any) -> Object:
    """A container that notes its start and runs a shell script."""
    return {
        "name": name,
        "image": bench.IMAGE,
        "command": ["sh", "-c", f'echo started >> "/ledger/$POD.{name}"; {script}'],
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}],
        **fields,
        "volumeMounts": [
            {"name": "ledger", "mountPath": "/ledger"},
            *fields.get("volumeMounts", ()),
        ],
    }


def spec(ledger: pathlib.Path, *containers: Object, **fields: Any) -> Object:
    """The spec of a pod on the node."""
    return {
        "nodeName": bench.NODE,
        "terminationGracePeriodSeconds": 2,
        "containers": list(containers),
        **fields,
        "volumes": [
            {"name": "ledger", "hostPath": {"path": str(ledger), "type": "Directory"}},
            *fields.get("volumes", ()),
        ],
    }


def pod(name: str, of: Object, labels: Mapping[str, str] | None = None) -> Object:
    """A pod that nobody owns."""
    metadata = {"name": name, "labels": dict(labels or {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": of}


def deployment(name: str, replicas: int, of: Object, **labels: str) -> Object:
    """A Deployment."""
    shown = {"app": name, **labels}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": shown}, "spec": of},
        },
    }


def job(name: str, of: Object) -> Object:
    """A Job whose pod must end well, the first time."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "backoffLimit": 0,
            "template": {
                "metadata": {"labels": {"job": name}},
                "spec": {**of, "restartPolicy": "Never"},
            },
        },
    }


def settings() -> list[Object]:
    """What `steady` refers to."""
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "told"}, "data": {"a": "1"}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "kept"},
            "stringData": {"password": "open sesame"},
        },
    ]


def steady(ledger: pathlib.Path) -> Object:
    """What nothing may happen to: init container, sidecar, volumes of all kinds, every probe."""
    there = "test -s /told/a && test -s /kept/password && test -e /scratch/ready && test -s {token}"
    there = there.format(token="/var/run/secrets/kubernetes.io/serviceaccount/token")
    mounts = [
        {"name": name, "mountPath": f"/{name}"} for name in ("scratch", "memory", "told", "kept")
    ]
    probe = {
        "exec": {"command": ["sh", "-c", there]},
        "periodSeconds": 2,
        "timeoutSeconds": 20,
        "failureThreshold": 5,
    }
    serve = "mkdir -p /memory/www; echo hello > /memory/www/index.html; "
    serve += "exec httpd -f -p 8080 -h /memory/www"
    return spec(
        ledger,
        container(
            "main",
            serve,
            volumeMounts=mounts,
            startupProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 60},
            livenessProbe=probe,
            readinessProbe={
                "httpGet": {"path": "/", "port": 8080},
                "periodSeconds": 2,
                "timeoutSeconds": 20,
                "failureThreshold": 5,
            },
        ),
        initContainers=[
            container("first", "touch /scratch/ready", volumeMounts=mounts[:1]),
            container("beside", FOREVER, volumeMounts=mounts[:1], restartPolicy="Always"),
        ],
        volumes=[
            {"name": "scratch", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "told", "configMap": {"name": "told"}},
            {"name": "kept", "secret": {"secretName": "kept"}},
        ],
    )


class Churn:
    """Somebody who never rests; every choice is made by a seed.

    Args:
        made: the node.
        namespace: where.
        seed: of the choices.
    """

    def __init__(self, made: bench.Bench, namespace: str, seed: int) -> None:
        self._bench = made
        self._namespace = namespace
        self._choose = random.Random(seed)
        self._count = 0
        self._alone: list[str] = []
        self.jobs: list[str] = []

    def begin(self, *, crashing: int = 2, scaled: int = 2) -> None:
        """Make what is there all the time, some of it in so many replicas."""
        ledger = self._bench.ledger
        for each in settings():
            self._create(each)
        self._create(deployment("steady", 2, steady(ledger), **{witness.STEADY: "yes"}))
        web = spec(
            ledger,
            container(
                "main", FOREVER, lifecycle={"preStop": {"exec": {"command": ["sleep", "0.3"]}}}
            ),
            volumes=[{"name": "scratch", "emptyDir": {}}],
        )
        self._create(deployment("scaled", scaled, web))
        crash = spec(ledger, container("main", "sleep 1; exit 1"))
        self._create(deployment("crashing", crashing, crash))

    def step(self) -> None:
        """Do one thing."""
        actions: list[tuple[int, Callable[[], None]]] = [
            (3, self._scale), (3, self._job), (3, self._start_one), (3, self._delete_one),
            (1, self._change),
        ]  # fmt: skip
        weights = [weight for weight, _ in actions]
        (chosen,) = self._choose.choices([action for _, action in actions], weights)
        chosen()

    def _create(self, body: Object) -> None:
        self._bench.create(self._namespace, body)

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._count}"

    def _scale(self) -> None:
        self._bench.scale(self._namespace, "scaled", self._choose.randint(0, 4))

    def _job(self) -> None:
        seconds = self._choose.choice((0, 0.5, 2))
        name = self._name("job")
        of = spec(
            self._bench.ledger,
            container("main", f"sleep {seconds}"),
            initContainers=[container("first", "true"), container("second", "sleep 0.3")],
        )
        self._create(job(name, of))
        self.jobs.append(name)

    def _start_one(self) -> None:
        kind = self._choose.choice(("stubborn", "sidecar", "again", "failing"))
        ledger = self._bench.ledger
        of = {
            "stubborn": lambda: spec(ledger, container("main", STUBBORN)),
            "sidecar": lambda: spec(
                ledger,
                container("main", FOREVER),
                container("other", FOREVER),
                initContainers=[container("beside", FOREVER, restartPolicy="Always")],
            ),
            "again": lambda: spec(
                ledger,
                container("main", "test -e /kept/once && exit 0; touch /kept/once; exit 1",
                          volumeMounts=[{"name": "kept", "mountPath": "/kept"}]),
                restartPolicy="OnFailure",
                volumes=[{"name": "kept", "emptyDir": {}}],
            ),
            "failing": lambda: spec(
                ledger,
                container("main", FOREVER),
                initContainers=[container("first", "sleep 0.5; exit 3")],
                restartPolicy="Never",
            ),
        }[kind]()  # fmt: skip
        name = self._name(kind)
        self._create(pod(name, of))
        self._alone.append(name)

    def _delete_one(self) -> None:
        if self._alone:
            name = self._alone.pop(self._choose.randrange(len(self._alone)))
            grace = self._choose.choice((None, None, 0, 1))
            self._bench.delete("Pod", self._namespace, name, grace)

    def _change(self) -> None:
        change = {"data": {"a": str(self._count)}}
        self._bench.patch("ConfigMap", self._namespace, "told", change)


def starts(ledger: pathlib.Path) -> dict[tuple[str, str], int]:
    """How often each container was really started, by UID and name."""
    return {
        (uid, name): len(file.read_text().splitlines())
        for file in ledger.iterdir()
        for uid, _, name in [file.name.partition(".")]
    }


def miscounted(ledger: pathlib.Path, seen: witness.Witness) -> list[str]:
    """Containers that ran more often than their statuses say, or than they may."""
    counted, unknown, found = seen.restarts(), seen.unknown(), []
    for (uid, name), times in starts(ledger).items():
        shown = seen.last.get(uid)
        if shown is None:
            found.append(f"{uid} {name}: ran {times} times, and no pod was seen")
            continue
        told = counted.get((uid, name), 0) + 1
        # The last start of a pod that is being deleted may never be told.
        slack = 1 if "deletionTimestamp" in shown["metadata"] else 0
        if shown["spec"]["restartPolicy"] == "Never" and not _is_sidecar(shown, name):
            told, slack = 1, 0
        key = f"{shown['metadata']['name']} {uid[:8]} {name}"
        if (uid, name) in unknown:
            found.append(f"{key}: ran {times} times, and nobody knows how it ended")
        if times > told + slack:
            found.append(f"{key}: ran {times} times, not {told}")
    return found


def _is_sidecar(shown: Object, name: str) -> bool:
    inits = shown["spec"].get("initContainers") or ()
    return any(each["name"] == name and "restartPolicy" in each for each in inits)
