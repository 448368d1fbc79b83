"""A full disk ends nothing: what can't be written now can be later."""

from __future__ import annotations

import asyncio
import datetime
import errno
import pathlib
from typing import Any

import node_agent_builders as make
import node_agent_crew as crews
import pytest
from node_agent_parts import until

from whipstaff.node_agent import app, certificates, hosting, provider, volumes
from whipstaff.node_agent.images import pull_records, pulling

Object = dict[str, Any]
FULL = OSError(errno.ENOSPC, "No space left on device")


async def test_pods_start_though_no_pull_can_be_recorded(tmp_path: pathlib.Path) -> None:
    (tmp_path / "image_manager").write_text("in the way")
    records = pull_records.Records(tmp_path)
    runtime = crews.Runtime()
    made = pulling.Images(runtime, lambda: make.NOW, records=records)
    await made.start()
    (tmp_path / "image_manager").unlink()
    image = await made.ensure(make.pod(), make.container("app"), lambda *_: None)
    assert image == provider.Image("nginx")
    assert not await asyncio.to_thread(records.is_free, "other", image.ref)


async def test_a_certificate_that_cannot_be_stored_is_asked_for_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def issue(*_: Any) -> None:
        nonlocal asked
        asked += 1
        raise FULL

    monkeypatch.setattr(certificates, "issue", issue)
    monkeypatch.setattr(certificates, "_FIRST_PAUSE", 0.01)
    request = certificates.Request(certificates.CLIENT_SIGNER, "node-0")
    store = certificates.Store(tmp_path, "kubelet-client")
    api: Any = None
    rotation = asyncio.create_task(certificates.Rotation(api, store, lambda: request).run())
    await until(lambda: asked > 1)
    assert not rotation.done()
    rotation.cancel()


def test_a_certificate_is_stored_whole_or_not_at_all(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = certificates.Store(tmp_path, "kubelet-client")
    store.write(b"first", b"key", datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))

    def refuse(_: int) -> None:
        raise FULL

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        store.write(b"second", b"key", datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC))
    assert store.current.read_bytes() == b"first\nkey"
    assert len(list(tmp_path.iterdir())) == 2


async def test_what_pods_left_behind_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "_SWEEP_AGAIN", 0.01)
    left = {"uid-web": 2, "uid-known": 1}

    class Leftovers(hosting.Host):
        def __init__(self) -> None:
            self.resizer = crews.Resizer()  # type: ignore[assignment]

        @property
        def volumes(self) -> Any:
            return self

        _groups = volumes

        def stray(self) -> set[str]:
            return set(left)

        def pods(self) -> set[str]:
            return set()

        async def tear_down(self, uid: str) -> None:
            left[uid] -= 1
            if left[uid]:
                raise volumes.VolumeError("device or resource busy")
            del left[uid]

        def _folder(self, uid: str) -> pathlib.Path:
            return pathlib.Path("/nowhere") / uid

    await asyncio.wait_for(Leftovers().sweep(lambda: {"uid-known"}), 5)
    assert left == {"uid-known": 1}


async def test_an_agent_whose_helper_fails_ends_so_that_it_is_started_anew() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    async def fail() -> None:
        raise FULL

    async def return_at_once() -> None:
        pass

    main = asyncio.create_task(forever())
    helpers = [asyncio.create_task(one()) for one in (forever, return_at_once, fail)]
    with pytest.raises(OSError, match="No space left"):
        await asyncio.wait_for(app._until_one_ends(main, helpers), 5)
    for task in (main, *helpers):
        task.cancel()
