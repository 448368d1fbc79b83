"""Reading one's own writes: which of them an informer's copy doesn't show yet.

Runs no loop. It owns, for each key that a controller works on, the newest resourceVersion that the
controller itself has written in each resource. A key is acted on again only when the copies have
come that far: so nothing is created or deleted a second time because the watch is slow. A write
whose answer was lost has no version: its key is in doubt until the copy shows what a look at the
API server itself shows.

Answers to upstream's ``pkg/controller/util/consistency`` (KEP-5647), and takes the place of its
expectations (``controller_utils.go``): a resourceVersion says which state is to be waited for,
where an expectation only counts events, and runs out after five minutes. Different: upstream takes
a write whose answer was lost for one that wasn't done. Leaves out the uid of the owner: versions
grow through the life of a cluster, so a namesake's only make a key wait a little.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from whipstaff.runtime import errors, objects, resources

Object: TypeAlias = dict[str, Any]


_SERVER_ERROR = 500


class OwnWrites:
    """The newest own writes by key and resource."""

    def __init__(self) -> None:
        self._versions: dict[str, dict[resources.Resource, int]] = {}
        self._doubted: set[str] = set()

    def wrote(self, key: str, resource: resources.Resource, resource_version: str) -> None:
        """A write for this key was answered with an object of this version; "" is no news."""
        if not resource_version:
            return
        versions = self._versions.setdefault(key, {})
        versions[resource] = max(versions.get(resource, 0), int(resource_version))

    def is_current(self, key: str, seen: Mapping[resources.Resource, str]) -> bool:
        """Whether copies that have come to the versions `seen` show every own write for a key."""
        return self.awaited(key, seen) is None

    def awaited(
        self, key: str, seen: Mapping[resources.Resource, str]
    ) -> resources.Resource | None:
        """A resource whose copy doesn't show an own write yet; None if all do."""
        for resource, version in self._versions.get(key, {}).items():
            if int(seen.get(resource) or 0) < version:
                return resource
        return None

    def forget(self, key: str) -> None:
        """There is nothing to be done for the key any more."""
        self._versions.pop(key, None)
        self._doubted.discard(key)

    def failed(self, key: str, error: BaseException) -> None:
        """A write for this key failed; it may have been done where no clear answer came."""
        refused = isinstance(error, errors.ApiError) and error.status < _SERVER_ERROR
        if isinstance(error, errors.WhipstaffError) and not refused:
            self._doubted.add(key)

    def is_doubted(self, key: str) -> bool:
        """Whether a write for this key may have been done that nobody knows of."""
        return key in self._doubted

    def compare(self, key: str, copied: Iterable[Object], found: Iterable[Object]) -> bool:
        """Whether the copy shows what the API server itself has: then there is no doubt left."""
        if _state(copied) != _state(found):
            return False
        self._doubted.discard(key)
        return True


def _state(found: Iterable[Object]) -> set[tuple[str, bool, int | None]]:
    return {
        (objects.uid(each), objects.is_terminating(each), (each.get("spec") or {}).get("replicas"))
        for each in found
    }
