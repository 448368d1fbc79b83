"""emptyDir: a directory that a pod starts with and that ends with it, on disk or in memory.

Blocking; runs no loop and owns nothing. Answers to ``pkg/volume/emptydir``. Leaves out quotas of
the file system: what an emptyDir takes is found by looking.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping

from whipstaff.node_agent import containers
from whipstaff.node_agent.cgroups import numbers as cgroup_numbers
from whipstaff.node_agent.volumes import mounting, ownership, places
from whipstaff.runtime import objects, quantities

Object = objects.Object

_OPEN = 0o777
_HUGE_PAGES = "HugePages"
_HUGE_REQUEST = "hugepages-"


def set_up(
    path: pathlib.Path,
    mark: pathlib.Path,
    pod: Object,
    source: Object,
    allocatable: Mapping[str, int],
) -> None:
    """Make an emptyDir, unless it is there.

    Args:
        path: where.
        mark: the file that tells that one on disk was made to the end.
        pod: the pod.
        source: the volume's ``emptyDir``.
        allocatable: what the node has for pods.

    Raises:
        places.SetUpError: it can't be as it is wanted.
        OSError: the kernel refuses.
    """
    medium = source.get("medium") or ""
    if medium == "":
        if mark.exists() and path.is_dir():
            return
        make_open(path)
    elif medium == "Memory":
        make_open(path)
        if mounting.is_mount_point(path):
            return
        mounting.tmpfs(path, memory_size(pod, source, allocatable))
    elif medium == _HUGE_PAGES or medium.startswith(f"{_HUGE_PAGES}-"):
        make_open(path)
        if mounting.is_mount_point(path):
            return
        mounting.mount("nodev", path, "hugetlbfs", options=f"pagesize={page_size(pod, medium)}")
    else:
        raise places.SetUpError(f'unknown storage medium "{medium}"')
    group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
    if group is not None:
        ownership.change(path, group, readonly=False)
    mark.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    mark.touch()


def make_open(path: pathlib.Path) -> None:
    """Make a directory that everybody may write into, whatever the umask."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(_OPEN)


def memory_size(pod: Object, source: Object, allocatable: Mapping[str, int]) -> int:
    """Bytes that a volume in memory may take: the least of its own limit, the pod's, the node's.

    0 is the kernel's default, where the node's isn't known.
    """
    size = allocatable.get("memory", 0)
    for limit in (cgroup_numbers.of_pod(pod).memory or 0, _limit(source)):
        if limit > 0 and (limit <= size or not size):
            size = limit
    return size


def _limit(source: Object) -> int:
    limit = source.get("sizeLimit")
    return quantities.value(limit) if limit else 0


def page_size(pod: Object, medium: str) -> str:
    """The size of the huge pages that a volume is made of, which a container must ask for.

    Raises:
        places.SetUpError: none does, or they ask for several.
    """
    wanted = medium.removeprefix(_HUGE_PAGES).removeprefix("-")
    sizes = {quantities.value(name): name for name in _asked_sizes(pod)}
    if wanted:
        if quantities.value(wanted) in sizes:
            return wanted
    elif len(sizes) > 1:
        raise places.SetUpError(
            f"medium: {medium} can't be used if container requests multiple huge page sizes"
        )
    elif sizes:
        return next(iter(sizes.values()))
    raise places.SetUpError(
        f"medium {medium}: hugePages storage requested, but there is no resource request for huge "
        "pages"
    )


def _asked_sizes(pod: Object) -> Iterator[str]:
    spec = pod["spec"]
    for holder in (spec, *containers.regular(spec), *containers.init(spec)):
        for name in (holder.get("resources") or {}).get("requests") or ():
            if name.startswith(_HUGE_REQUEST):
                yield name.removeprefix(_HUGE_REQUEST)
