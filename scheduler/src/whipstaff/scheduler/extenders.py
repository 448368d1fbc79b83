"""Calls to HTTP extenders: programs of others that have a say in where pods go.

Its loop is the caller's: every call is one POST of JSON, awaited, with a time limit. An answer that
isn't one (no connection, no time left, a status other than 200, no JSON, an `Error`) raises
`ExtenderError`. Names of fields in answers are taken whatever their case, as Go takes them.

Answers to `pkg/scheduler/extender.go`, to `k8s.io/kube-scheduler/extender/v1` for what is sent, and
to `findNodesThatPassExtenders`, `prioritizeNodes` and `extendersBinding` in
`pkg/scheduler/schedule_one.go`, and `callExtenders` in
`pkg/scheduler/framework/preemption/preemption.go`.
"""

import asyncio
import dataclasses
import json
import pathlib
import ssl
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import aiohttp

from whipstaff.runtime import errors, logs, tls
from whipstaff.scheduler import extender_settings, framework, pods, preemption, snapshot

Object = dict[str, Any]
_T = TypeVar("_T")

SCALE = 10
"""Extenders score from 0 to 10, plugins from 0 to 100."""

_DROPPED = framework.Status(framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE)
"""The status of a node that an extender left out without a word."""

_log = logs.get("scheduler.extenders")


class ExtenderError(errors.WhipstaffError):
    """A call to an extender failed, or its answer makes no sense."""


@dataclasses.dataclass(frozen=True, slots=True)
class Opinion:
    """What extenders say of some nodes for one pod."""

    asked: frozenset[str] = frozenset()
    refused: Mapping[str, framework.Status] = dataclasses.field(default_factory=dict)
    scores: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """What to add to the plugins' total, for some of the nodes."""


class Extender:
    """One extender. Raises `ConfigurationError` if its certificates can't be used."""

    def __init__(self, settings: extender_settings.ExtenderSettings) -> None:
        self.settings = settings
        self.name = settings.url_prefix
        self._tls = _tls_context(settings)
        self._session: aiohttp.ClientSession | None = None

    def is_interested(self, pod: pods.PodInfo) -> bool:
        """Whether the pod asks for something that the extender manages."""
        managed = self.settings.managed_resources
        if not managed:
            return True
        spec = pod.raw["spec"]
        return any(
            not managed.isdisjoint((container.get("resources") or {}).get(amounts) or ())
            for field in ("containers", "initContainers")
            for container in spec.get(field) or ()
            for amounts in ("requests", "limits")
        )

    async def filter(
        self, pod: pods.PodInfo, nodes: Mapping[str, Object]
    ) -> dict[str, framework.Status]:
        """Why it refuses those of `nodes` that it refuses. Raises `ExtenderError`."""
        answer = await self._send(self.settings.filter_verb, self._arguments(pod, nodes))
        if error := _field(answer, "Error"):
            raise ExtenderError(str(error))
        passed: Iterable[str] = ()
        names, listed = _field(answer, "NodeNames"), _field(answer, "Nodes")
        if self.settings.node_cache_capable and names is not None:
            passed = names
        elif listed is not None:
            passed = [item["metadata"]["name"] for item in _field(listed, "items") or ()]
        kept = set(passed)
        for name in kept - nodes.keys():
            raise ExtenderError(
                f'extender "{self.name}" claims a filtered node "{name}" which is not found in the'
                " input node list"
            )
        hopeless = _field(answer, "FailedAndUnresolvableNodes") or {}
        failed = _field(answer, "FailedNodes") or {}
        refused = {}
        for name in nodes.keys() - kept:
            if name in hopeless:
                code, text = framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE, hopeless[name]
                refused[name] = framework.Status(code, (text,))
            elif name in failed:
                refused[name] = framework.Status(framework.Code.UNSCHEDULABLE, (failed[name],))
            else:
                refused[name] = _DROPPED
        return refused

    async def prioritize(self, pod: pods.PodInfo, nodes: Mapping[str, Object]) -> dict[str, int]:
        """What it adds to the scores of nodes: weighted, in plugins' units."""
        answer = await self._send(self.settings.prioritize_verb, self._arguments(pod, nodes))
        factor = self.settings.weight * SCALE
        return {_field(item, "Host"): int(_field(item, "Score") or 0) * factor for item in answer}

    async def preempt(
        self,
        pod: pods.PodInfo,
        candidates: Sequence[preemption.Candidate],
        cluster: snapshot.Snapshot,
    ) -> list[preemption.Candidate]:
        """The candidates that are left, perhaps with other victims. Raises `ExtenderError`."""
        cached = self.settings.node_cache_capable
        victims = {
            candidate.node: {
                "Pods": [{"UID": one.uid} if cached else one.raw for one in candidate.victims],
                "NumPDBViolations": candidate.violations,
            }
            for candidate in candidates
        }
        body = {
            "Pod": pod.raw,
            "NodeNameToVictims": None if cached else victims,
            "NodeNameToMetaVictims": victims if cached else None,
        }
        answer = await self._send(self.settings.preempt_verb, body)
        said = _field(answer, "NodeNameToMetaVictims") or {}
        return [
            self._candidate(node, chosen or {}, cluster)
            for node, chosen in said.items()
            if (chosen and _field(chosen, "Pods")) or self._insists_on_victims(node)
        ]

    async def bind(self, pod: pods.PodInfo, node: str) -> None:
        """Has it bind the pod. Raises `ExtenderError`."""
        body = {
            "PodName": pod.name,
            "PodNamespace": pod.namespace,
            "PodUID": pod.uid,
            "Node": node,
        }
        answer = await self._send(self.settings.bind_verb, body)
        if error := _field(answer, "Error"):
            raise ExtenderError(str(error))

    async def close(self) -> None:
        """Ends its connections."""
        if self._session is not None:
            await self._session.close()

    def _insists_on_victims(self, node: str) -> bool:
        """False where a node without victims is passed over; otherwise it is an error."""
        if self.settings.ignorable:
            return False
        raise ExtenderError(f'expected at least one victim pod on node "{node}"')

    def _candidate(
        self, node: str, chosen: Mapping[str, Any], cluster: snapshot.Snapshot
    ) -> preemption.Candidate:
        if node not in cluster.row_of:
            raise ExtenderError(f'nodeinfo not found for node name "{node}"')
        there = {pod.uid: pod for pod in cluster.pods_on(node)}
        uids = [_field(victim, "UID") for victim in _field(chosen, "Pods")]
        for uid in uids:
            if uid not in there:
                raise ExtenderError(
                    f"extender: {self.name} claims to preempt pod (UID: {uid}) on node: {node},"
                    " but the pod is not found on that node"
                )
        victims = tuple(there[uid] for uid in uids)
        return preemption.Candidate(node, victims, int(_field(chosen, "NumPDBViolations") or 0))

    def _arguments(self, pod: pods.PodInfo, nodes: Mapping[str, Object]) -> Object:
        cached = self.settings.node_cache_capable
        return {
            "Pod": pod.raw,
            "Nodes": None if cached else {"metadata": {}, "items": list(nodes.values())},
            "NodeNames": list(nodes) if cached else None,
        }

    async def _send(self, verb: str, body: Object) -> Any:
        url = f"{self.settings.url_prefix.rstrip('/')}/{verb}"
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self.settings.timeout)
            )
        try:
            async with self._session.post(
                url,
                json=body,
                ssl=self._tls,
                server_hostname=self.settings.tls.server_name or None,
            ) as response:
                if response.status != 200:
                    raise ExtenderError(
                        f"failed {verb} with extender at URL {url}, code {response.status}"
                    )
                return json.loads(await response.read())
        except TimeoutError as error:
            text = f"{verb}: no answer from extender at URL {url}"
            raise ExtenderError(f"{text} within {self.settings.timeout:g}s") from error
        except (aiohttp.ClientError, ValueError, OSError) as error:
            raise ExtenderError(f"{verb}: extender at URL {url}: {error}") from error


class Extenders:
    """All extenders of a configuration: those that may be missed come last."""

    def __init__(self, settings: Sequence[extender_settings.ExtenderSettings]) -> None:
        ordered = sorted(settings, key=lambda each: each.ignorable)
        self._all = [Extender(each) for each in ordered]

    def decide_about(self, pod: pods.PodInfo) -> bool:
        """Whether some extender has a say in where the pod goes, or who goes for it."""
        return any(
            each.is_interested(pod)
            for each in self._all
            if each.settings.filter_verb
            or each.settings.prioritize_verb
            or each.settings.preempt_verb
        )

    async def ask(self, pod: pods.PodInfo, nodes: Mapping[str, Object]) -> Opinion:
        """Has `nodes` (objects by name) filtered, then what is left scored.

        Raises `ExtenderError` if an extender that mustn't be missed fails to filter.
        """
        interested = [each for each in self._all if each.is_interested(pod)]
        left = dict(nodes)
        refused: dict[str, framework.Status] = {}
        for extender in interested:
            if not left:
                break
            if not extender.settings.filter_verb:
                continue
            try:
                no = await _sensibly(extender, extender.filter(pod, left))
            except ExtenderError as error:
                if not extender.settings.ignorable:
                    raise
                _log.info("extender skipped", extender=extender.name, error=str(error))
                continue
            refused.update(no)
            left = {name: node for name, node in left.items() if name not in no}
        scores: dict[str, int] = {}
        if len(left) > 1:
            scores = await self._prioritize(interested, pod, left)
        return Opinion(frozenset(nodes), refused, scores)

    async def preempt(
        self,
        pod: pods.PodInfo,
        candidates: Sequence[preemption.Candidate],
        cluster: snapshot.Snapshot,
    ) -> Sequence[preemption.Candidate]:
        """The candidates that every extender with a say in it leaves. Raises `ExtenderError`."""
        for extender in self._all:
            if not extender.settings.preempt_verb or not extender.is_interested(pod):
                continue
            try:
                candidates = await _sensibly(extender, extender.preempt(pod, candidates, cluster))
            except ExtenderError as error:
                if not extender.settings.ignorable:
                    raise
                _log.info("extender skipped in preempt", extender=extender.name, error=str(error))
                continue
            if not candidates:
                break
        return candidates

    def bind_it(self, pod: pods.PodInfo) -> bool:
        """Whether an extender is to bind the pod."""
        return any(each.settings.bind_verb and each.is_interested(pod) for each in self._all)

    async def bind(self, pod: pods.PodInfo, node: str) -> bool:
        """Has the extender that binds such pods do it; False if it may be missed and failed.

        Raises `ExtenderError`.
        """
        for extender in self._all:
            if not extender.settings.bind_verb or not extender.is_interested(pod):
                continue
            try:
                await _sensibly(extender, extender.bind(pod, node))
            except ExtenderError as error:
                if not extender.settings.ignorable:
                    raise
                _log.info("extender skipped in bind", extender=extender.name, error=str(error))
                continue
            return True
        return False

    async def close(self) -> None:
        """Ends all connections."""
        for each in self._all:
            await each.close()

    async def _prioritize(
        self, interested: Sequence[Extender], pod: pods.PodInfo, nodes: Mapping[str, Object]
    ) -> dict[str, int]:
        """The sum of scores; an extender that fails gives none."""
        scores: dict[str, int] = {}

        async def add(extender: Extender) -> None:
            try:
                given = await _sensibly(extender, extender.prioritize(pod, nodes))
            except ExtenderError as error:
                _log.info("extender gives no scores", extender=extender.name, error=str(error))
                return
            for name, score in given.items():
                scores[name] = scores.get(name, 0) + score

        scoring = [each for each in interested if each.settings.prioritize_verb]
        await asyncio.gather(*(add(each) for each in scoring))
        return scores


async def _sensibly(extender: Extender, call: Awaitable[_T]) -> _T:
    """What the call answers; `ExtenderError` if the answer isn't of the form that it should be."""
    try:
        return await call
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ExtenderError(f"extender {extender.name} answers nonsense: {error}") from error


def _field(answer: Mapping[str, Any], name: str) -> Any:
    """A field by its name or, as Go reads it, by one that differs in case only."""
    if name in answer:
        return answer[name]
    wanted = name.lower()
    return next((value for key, value in answer.items() if key.lower() == wanted), None)


def _tls_context(settings: extender_settings.ExtenderSettings) -> ssl.SSLContext:
    """Source: `makeTransport`: HTTPS without a CA isn't verified."""
    given = settings.tls
    try:
        data = given.ca_data.decode("ascii") or None
        context = ssl.create_default_context(
            cafile=given.ca_file or None if data is None else None, cadata=data
        )
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if given.insecure or (settings.enable_https and not (given.ca_file or data)):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        certificate = given.cert_data or _read(given.cert_file)
        if certificate:
            tls.load_chain(context, certificate, given.key_data or _read(given.key_file))
    except (OSError, ValueError) as error:
        raise errors.ConfigurationError(
            f"extender {settings.url_prefix}: tlsConfig: {error}"
        ) from error
    return context


def _read(path: str) -> bytes:
    return pathlib.Path(path).read_bytes() if path else b""
