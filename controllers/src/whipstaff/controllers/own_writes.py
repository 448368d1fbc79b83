"""Reading one's own writes: which of them an informer's copy doesn't show yet.

Runs no loop. It owns, for each key that a controller works on, the newest resourceVersion that the
controller itself has written in each resource. A key is acted on again only when the copies have
come that far: so nothing is created or deleted a second time because the watch is slow.

Answers to upstream's ``pkg/controller/util/consistency`` (KEP-5647), and takes the place of its
expectations (``controller_utils.go``): a resourceVersion says which state is to be waited for,
where an expectation only counts events, and runs out after five minutes. Leaves out the uid of the
owner: versions grow through the life of a cluster, so a namesake's only make a key wait a little.
"""

from __future__ import annotations

from collections.abc import Mapping

from whipstaff.runtime import resources


class OwnWrites:
    """The newest own writes by key and resource."""

    def __init__(self) -> None:
        self._versions: dict[str, dict[resources.Resource, int]] = {}

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
