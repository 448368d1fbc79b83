"""The page that shows the cluster, in a real browser."""

import contextlib
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from whipstaff.runtime import authorization, errors, serving
from whipstaff.scheduler import (
    decision,
    decisions,
    metrics,
    nominator,
    offline,
    page_testing,
    profile,
    queue,
    snapshot,
    testing,
    views,
)

needs_browser = pytest.mark.skipif(
    page_testing.program() is None, reason="no Chromium here: tools/browser installs it"
)
TOKEN_FREE = ("127.0.0.1", 0)


class Stage:
    """The parts that the page shows, without an API server, and a hand that moves them."""

    def __init__(self, nodes: int) -> None:
        self.cluster = snapshot.Snapshot()
        for number in range(nodes):
            taints = [{"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}]
            self.cluster.upsert_node(
                testing.node(
                    f"node-{number:04}",
                    unschedulable=number % 97 == 5,
                    taints=taints if number % 10 == 7 else [],
                )
            )
        self.raws: dict[str, Any] = {}
        promises = nominator.Nominator()
        self.waiting = queue.SchedulingQueue(
            now=time.monotonic,
            sort_key=lambda queued: -queued.pod.priority,
            gate=lambda pod: "SchedulingGates" if pod.scheduling_gates else "",
            promises=promises,
        )
        self.ring = decisions.Decisions()
        self.measured = metrics.Metrics()
        self.profiles = {"default-scheduler": profile.default_profile("default-scheduler")}
        self.decider = decision.Decider(
            self.cluster, random.Random(1), promises=promises, evidence=True
        )
        self.views = views.Views(
            cluster=self.cluster,
            waiting=self.waiting,
            ring=self.ring,
            profiles=self.profiles,
            latest=self.raws.get,
            measured=self.measured,
        )

    def place(self, name: str, cpu: str = "100m", **spec: Any) -> None:
        """Decides about a pod as the cycle does."""
        raw = testing.pod(name, {"cpu": cpu, "memory": "1Gi"}, **spec)
        raw["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
        self.raws[f"default/{name}"] = raw
        info = offline.info_of(raw)
        self.waiting.add(info)
        if info.scheduling_gates:
            return
        queued = self.waiting.pop()
        assert queued is not None
        plugins = self.profiles["default-scheduler"]
        decided = self.decider.decide(info, plugins)
        if decided.node is not None:
            self.cluster.assume(info, decided.node)
            self.waiting.done(info.uid)
            self.ring.record(info.key, info.uid, decided, scheduler="default-scheduler")
            self.measured.observe_attempt(metrics.SCHEDULED, "default-scheduler", 0.001)
            return
        message = str(decided.failure)
        condition = {"type": "PodScheduled", "status": "False", "message": message}
        raw["status"]["conditions"] = [condition]
        queued.rejected_by = frozenset({"NodeResourcesFit"})
        self.waiting.add_unschedulable(queued)
        self.ring.record(info.key, info.uid, decided, message, scheduler="default-scheduler")
        self.measured.observe_attempt(metrics.UNSCHEDULABLE, "default-scheduler", 0.001)


@pytest.fixture
def stage() -> Stage:
    made = Stage(200)
    for number in range(300):
        made.place(f"web-{number}")
    made.place("big", "64")
    made.place("held", schedulingGates=[{"name": "example.com/quota"}])
    return made


@contextlib.asynccontextmanager
async def opened(stage: Stage, **size: int) -> AsyncIterator[Any]:
    """The page, once it shows something."""
    async with views.page_server(TOKEN_FREE, stage.views) as server, page_testing.browser() as tab:
        await tab.open(f"{server.url}/", **size)
        await tab.until("document.getElementById('state')?.className === 'live'")
        yield tab
        assert tab.problems == []
        origins = {url for url in tab.requests if not url.startswith((server.url, "data:"))}
        assert origins == set(), "the page works without any other server"


@needs_browser
async def test_the_page_shows_the_cluster_and_follows_it(stage: Stage) -> None:
    async with opened(stage) as tab:
        text = await tab.run("document.getElementById('main').innerText")
        assert "300" in text
        assert "3 cordoned" in text
        assert "default/big" in text
        assert "177 Insufficient cpu" in text
        assert "held back by a gate" in text
        for number in range(50):
            stage.place(f"more-{number}")
        await tab.until("document.getElementById('t-pods').textContent === '350'")
        await tab.until("Number(document.getElementById('t-rate').textContent) > 0")
        await tab.until("document.getElementById('decisions').innerText.includes('more-49')")


@needs_browser
async def test_a_decision_is_told_node_by_node_and_plugin_by_plugin(stage: Stage) -> None:
    async with opened(stage) as tab:
        click = (
            "[...document.querySelectorAll('#{} button')].find(b => b.textContent === '{}').click()"
        )
        await tab.until("document.getElementById('decisions').innerText.includes('default/big')")
        await tab.run(click.format("decisions", "default/web-299"))
        await tab.until("!document.getElementById('decision').hidden")
        text = await tab.run("document.getElementById('decision').innerText")
        assert "was chosen, with a score of" in text
        assert "TaintToleration \N{MULTIPLICATION SIGN}3" in text
        assert "node(s) had untolerated taint(s)" in text
        await tab.run(click.format("pending", "default/big"))
        await tab.until("document.getElementById('decision').innerText.includes('default/big')")
        text = await tab.run("document.getElementById('decision').innerText")
        assert "more cpu than it has at all (64 wanted, the node has 4)" in text
        assert await tab.run("document.activeElement.tagName") == "H3"


@needs_browser
async def test_nodes_can_be_reached_by_keyboard_and_told_apart_by_use(stage: Stage) -> None:
    async with opened(stage) as tab:
        pixel = (
            "[...document.getElementById('nodes').getContext('2d')"
            ".getImageData({x}, 3, 1, 1).data].join()"
        )
        first = await tab.run(pixel.format(x=3))
        await tab.run("document.getElementById('nodes').focus()")
        for _ in range(3):
            await tab.press("ArrowRight")
        said = await tab.run("document.getElementById('pointed').textContent")
        assert said.startswith("node-0002: CPU ")
        await tab.press("Enter")
        await tab.until("document.getElementById('node').innerText.includes('of 110 pods')")
        await tab.run("document.querySelector('input[value=pods]').click()")
        by_pods = await tab.run(pixel.format(x=3))
        assert by_pods != first
        await tab.run(
            "(() => { const f = document.getElementById('find'); f.value = '0199';"
            " f.dispatchEvent(new Event('input')); })()"
        )
        assert await tab.run(pixel.format(x=3)) != by_pods


@needs_browser
async def test_light_and_dark_follow_the_reader(stage: Stage) -> None:
    async with views.page_server(TOKEN_FREE, stage.views) as server, page_testing.browser() as tab:
        await tab.prefer("dark")
        await tab.open(f"{server.url}/ui/")
        await tab.until("document.getElementById('state')?.className === 'live'")
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = await tab.run(ground)
        await tab.run("document.getElementById('theme').click()")
        assert dark != await tab.run(ground)
        assert tab.problems == []


@needs_browser
async def test_five_thousand_nodes_are_drawn_in_no_time() -> None:
    stage = Stage(5000)
    for number in range(500):
        stage.place(f"web-{number}")
    async with opened(stage) as tab:
        each = await tab.run(
            "(() => { const start = performance.now(); for (let i = 0; i < 20; i++)"
            " document.querySelector(`input[value=${i % 2 ? 'cpu' : 'memory'}]`).click();"
            " return (performance.now() - start) / 20; })()"
        )
        assert each < 100, f"{each:.0f} ms to draw all nodes"


async def get(url: str, **settings: Any) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, allow_redirects=False, **settings) as response,
    ):
        return response.status, await response.read()


async def test_the_plain_page_is_for_this_machine_and_for_nothing_else(stage: Stage) -> None:
    async with views.page_server(TOKEN_FREE, stage.views) as server:
        assert (await get(f"{server.url}/debug/cluster"))[0] == 200
        assert (await get(f"{server.url}/ui/page.js"))[0] == 200
        assert (await get(f"{server.url}/"))[0] == 302
        assert (await get(f"{server.url}/metrics"))[0] == 403
        rebound = {"Host": f"evil.example:{server.port}"}
        assert (await get(f"{server.url}/debug/cluster", headers=rebound))[0] == 403
        assert (await get(f"{server.url}/debug/node?name=nobody"))[0] == 404
        assert (await get(f"{server.url}/debug/explain?namespace=a"))[0] == 400
        assert (await get(f"{server.url}/debug/decisions?limit=x"))[0] == 400


@pytest.mark.parametrize("address", ["0.0.0.0:1", "10.1.2.3:80", "localhost", "127.0.0.1:x", "::1"])
def test_a_page_for_everybody_is_refused(address: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="--page-address"):
        views.loopback(address)


def test_loopback_addresses_are_taken() -> None:
    assert views.loopback("127.0.0.1:10260") == ("127.0.0.1", 10260)
    assert views.loopback("[::1]:10260") == ("::1", 10260)


class Guests:
    """Knows one token, and lets its user see everything."""

    async def user_of(self, token: str) -> authorization.User | None:
        return authorization.User("viewer") if token == "right" else None

    async def authorize(self, user: authorization.User, attributes: Any) -> bool:
        return user.name == "viewer"


@needs_browser
async def test_where_credentials_are_wanted_the_page_asks_for_a_token(stage: Stage) -> None:
    guests = Guests()
    server = serving.Server(secure=False, authenticator=guests, authorizer=guests)
    stage.views.show(server)
    async with server, page_testing.browser() as tab:
        await tab.open(f"{server.url}/ui/")
        await tab.until("document.getElementById('login')?.hidden === false")
        assert await tab.run("document.getElementById('main').hidden")
        enter = (
            "document.getElementById('token').value = '{}';"
            " document.querySelector('#login button').click()"
        )
        await tab.run(enter.format("wrong"))
        await tab.until("document.getElementById('login-why').textContent === 'Unauthorized'")
        await tab.run(enter.format("right"))
        await tab.until("document.getElementById('state').className === 'live'")
        assert await tab.run("document.getElementById('login').hidden")
        assert await tab.run("document.getElementById('t-pods').textContent") == "300"
