"""Rotating logs: names, what is kept, what is compressed, and that nothing written is lost."""

from __future__ import annotations

import gzip
import pathlib
import time
from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.node_agent import log_rotation, provider


class Runtime:
    """A runtime that opens a new log when it is asked to."""

    def __init__(self) -> None:
        self.failing = False
        self.reopened: list[str] = []

    async def reopen_log(self, pod: Any, run: provider.RuntimeContainer) -> None:
        if self.failing:
            raise provider.ProviderError("not now")
        self.reopened.append(run.log_path)
        _touch(run.log_path)


def _touch(path: str) -> None:
    pathlib.Path(path).touch()


class Bench:
    """A container's log, and who rotates it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.log = folder / "0.log"
        self.runtime = Runtime()
        self.now = make.NOW
        run = make.run("app", log_path=str(self.log))
        self.rotator = log_rotation.Rotator(
            self.runtime,  # type: ignore[arg-type]
            lambda: [(make.pod(), run), (make.pod(), make.run("silent"))],
            log_rotation.Policy(size=10, files=4),
            lambda: self.now,
        )

    async def write(self, text: str) -> None:
        """Write a log, and have it looked at."""
        self.log.write_text(text)
        self.now += 10
        await self.rotator.look()

    def files(self) -> list[str]:
        return sorted(path.name for path in self.log.parent.iterdir())

    def stamp(self, before: int = 0) -> str:
        moment = time.localtime(self.now - 10 * before)
        return time.strftime("0.log.%Y%m%d-%H%M%S", moment)


@pytest.fixture
def bench(tmp_path: pathlib.Path) -> Bench:
    return Bench(tmp_path)


async def test_a_small_log_is_left_alone(bench: Bench) -> None:
    await bench.write("short")
    assert bench.files() == ["0.log"]
    assert bench.runtime.reopened == []


async def test_a_large_log_is_put_aside_and_a_new_one_begun(bench: Bench) -> None:
    await bench.write("first" * 10)
    assert bench.files() == ["0.log", bench.stamp()]
    assert (bench.log.parent / bench.stamp()).read_text() == "first" * 10
    assert bench.log.read_text() == ""


async def test_the_one_before_the_last_is_compressed(bench: Bench) -> None:
    bench.log.write_text("x")
    bench.log.chmod(0o640)
    for text in ("first" * 10, "second" * 10):
        await bench.write(text)
    older = bench.log.parent / f"{bench.stamp(1)}.gz"
    assert bench.files() == ["0.log", older.name, bench.stamp()]
    assert gzip.decompress(older.read_bytes()).decode() == "first" * 10
    assert older.stat().st_mode & 0o777 == 0o640


async def test_only_so_many_are_kept(bench: Bench) -> None:
    for number in range(6):
        await bench.write(f"{number}" * 20)
    assert bench.files() == [
        "0.log",
        f"{bench.stamp(2)}.gz",
        f"{bench.stamp(1)}.gz",
        bench.stamp(),
    ]


async def test_leftovers_of_an_earlier_rotation_are_removed(bench: Bench) -> None:
    for name in ("0.log.1.tmp", "0.log.2", "0.log.2.gz"):
        (bench.log.parent / name).write_text("x")
    await bench.write("long" * 10)
    assert bench.files() == ["0.log", "0.log.2.gz", bench.stamp()]


async def test_a_log_that_can_not_be_reopened_stays_and_is_tried_again(bench: Bench) -> None:
    bench.runtime.failing = True
    await bench.write("long" * 10)
    assert bench.files() == ["0.log"]
    assert bench.log.read_text() == "long" * 10
    bench.runtime.failing = False
    await bench.rotator.look()
    assert bench.files() == ["0.log", bench.stamp()]


async def test_a_log_that_somebody_deleted_is_begun_again(bench: Bench) -> None:
    await bench.rotator.look()
    assert bench.files() == ["0.log"]


async def test_logs_of_other_containers_stay(bench: Bench) -> None:
    (bench.log.parent / "10.log.1").write_text("x" * 99)
    await bench.write("long" * 10)
    assert "10.log.1" in bench.files()


def test_there_is_more_than_one_file() -> None:
    with pytest.raises(ValueError, match="invalid MaxFiles 1, must be > 1"):
        log_rotation.Policy(files=1)


async def test_rotation_can_be_switched_off(bench: Bench) -> None:
    rotator = log_rotation.Rotator(
        bench.runtime,  # type: ignore[arg-type]
        list,
        log_rotation.Policy(size=-1),
    )
    await rotator.run()


def test_the_logs_of_one_run_are_deleted_and_no_others(tmp_path: pathlib.Path) -> None:
    for name in ("1.log", "1.log.20260102-030405.gz", "10.log", "2.log"):
        (tmp_path / name).touch()
    log_rotation.delete(tmp_path / "1.log")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10.log", "2.log"]
    log_rotation.delete(tmp_path / "gone" / "1.log")
