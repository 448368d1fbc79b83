"""What went through pods' networks, without asking the runtime each time."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.node_agent import provider
from whipstaff.node_agent.providers.cri import networks, register
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb

DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0
  eth0: 1234567     890    1    2    0     0          0         0     7654      32    3    0    0
"""


class Runtime:
    """A runtime that tells which processes its sandboxes are."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.info: dict[str, str] = {"info": json.dumps({"pid": 77})}

    async def PodSandboxStatus(self, request: Any, timeout: float) -> Any:  # noqa: N802
        self.asked.append(request.pod_sandbox_id)
        assert request.verbose
        status = pb.PodSandboxStatus(id=request.pod_sandbox_id, state=pb.SANDBOX_READY)
        return pb.PodSandboxStatusResponse(status=status, info=self.info)


class Site:
    """One sandbox and the kernel's files of its process."""

    def __init__(self, proc: pathlib.Path) -> None:
        self.runtime: Any = Runtime()
        self.known = register.Register()
        self.sandbox = dataclasses.replace(make.sandbox(), id="s1")
        self.known.note_sandbox("uid-web", self.sandbox)
        self.process = proc / "77"
        (self.process / "net").mkdir(parents=True)
        (self.process / "net/dev").write_text(DEV)
        (self.process / "cgroup").write_text("3:cpu:/kubepods/poduid-web/s1\n")
        self.networks = networks.Networks(self.runtime, self.known, proc)


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Site:
    return Site(tmp_path)


async def test_the_kernel_tells_what_went_through(site: Site) -> None:
    found = await site.networks.read(None)
    assert found is not None
    used = found["s1"]
    assert (used.interface, used.received, used.receive_errors) == ("eth0", 1234567, 1)
    assert (used.sent, used.send_errors) == (7654, 3)
    assert await site.networks.read("uid-other") == {}
    assert set(await site.networks.read("uid-web") or ()) == {"s1"}
    # It stays the same process for as long as the sandbox is one.
    assert site.runtime.asked == ["s1"]


async def test_what_is_not_ready_or_on_the_node_s_network_is_left_out(site: Site) -> None:
    on_node = dataclasses.replace(make.sandbox(ips=()), id="s2")
    ended = dataclasses.replace(make.sandbox(ready=False), id="s3")
    for sandbox in (on_node, ended):
        site.known.note_sandbox("uid-db", sandbox)
    assert set(await site.networks.read(None) or ()) == {"s1"}
    site.known.sandbox_ended("s1")
    assert await site.networks.read(None) == {}


async def test_a_process_that_has_just_ended_is_no_trouble(site: Site) -> None:
    await site.networks.read(None)
    (site.process / "net/dev").unlink()
    assert await site.networks.read(None) == {}


@pytest.mark.parametrize("info", [{}, {"info": "{}"}, {"info": "so so"}, {"info": '{"pid": 78}'}])
async def test_who_is_not_told_or_cannot_see_asks_the_runtime(
    site: Site, info: dict[str, str]
) -> None:
    site.runtime.info = info
    assert await site.networks.read(None) is None
    assert await site.networks.read(None) is None
    assert site.runtime.asked == ["s1"]


async def test_another_process_of_that_number_is_not_taken_for_a_sandbox(site: Site) -> None:
    (site.process / "cgroup").write_text("0::/system.slice/sshd.service\n")
    assert await site.networks.read(None) is None


def test_interfaces_have_names_of_all_kinds() -> None:
    assert networks.parse(DEV.replace("eth0", "ens5"), 1.0) == provider.Usage(
        at=1.0, interface="ens5", received=1234567, receive_errors=1, sent=7654, send_errors=3
    )
    assert networks.parse("\n".join(DEV.splitlines()[:3]), 1.0) is None
