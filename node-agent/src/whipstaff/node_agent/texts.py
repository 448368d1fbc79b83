"""Texts as the kubelet writes them: times, durations, lists of names, a pod's full name.

People and tools search for these texts (``back-off 1m20s restarting failed container=app
pod=web_shop(6f1…)``), so they are formatted as Go formats them. Answers to ``pkg/kubelet/util/
format/pod.go`` and to Go's ``time.Duration.String``. Runs no loop and owns only caches: a fleet of
simulated nodes writes the same second thousands of times.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable

from whipstaff.runtime import objects

Object = objects.Object


def timestamp(seconds: float) -> str | None:
    """A ``metav1.Time``: RFC 3339 in UTC, cut to the second; None for zero, Go's unset time."""
    return _timestamp(int(seconds)) if seconds else None


_timestamp = functools.lru_cache(maxsize=4096)(objects.format_time)


@functools.lru_cache(maxsize=4096)
def seconds(text: str | None) -> float:
    """Seconds since the epoch of an API timestamp; 0.0 for none.

    Raises:
        ValueError: the text isn't an RFC 3339 time.
    """
    return objects.parse_time(text) if text else 0.0


def duration(amount: float) -> str:
    """Seconds as Go prints a duration, to the millisecond: ``10s``, ``1m20s``, ``350ms``."""
    millis = round(amount * 1000)
    if millis == 0:
        return "0s"
    if abs(millis) < 1000:
        return f"{millis}ms"
    minutes, rest = divmod(millis, 60_000)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{tail}"
    return f"{minutes}m{tail}" if minutes else tail


def quoted(text: str) -> str:
    """As Go's ``%q`` prints a printable string: in double quotes, with escapes."""
    return json.dumps(text, ensure_ascii=False)


def names(items: Iterable[str]) -> str:
    """A list as Go's ``%v`` prints it: ``[a b]``."""
    return f"[{' '.join(items)}]"


def pod(obj: Object) -> str:
    """A pod's full name in messages: ``name_namespace(uid)``."""
    metadata = obj["metadata"]
    return f"{metadata['name']}_{metadata['namespace']}({metadata['uid']})"


def log_folder(obj: Object) -> str:
    """The name of the folder that a pod's logs are in: ``namespace_name_uid``."""
    metadata = obj["metadata"]
    return f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"


def log_link(obj: Object, container: str, container_id: str) -> str:
    """The name under which log collectors look for a container's log."""
    metadata = obj["metadata"]
    return f"{metadata['name']}_{metadata['namespace']}_{container}-{container_id}.log"
