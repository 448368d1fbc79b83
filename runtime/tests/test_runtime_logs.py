"""Log lines say what they should, in the form asked for, and never a credential."""

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from whipstaff.runtime import logs

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    root, level = logging.getLogger(), logging.getLogger().level
    handlers = list(root.handlers)
    yield
    logs.setup()
    root.handlers[:] = handlers
    root.setLevel(level)


def _lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def _fail(error: Exception) -> None:
    raise error


def test_text_is_key_and_value() -> None:
    stream = io.StringIO()
    logs.setup(stream=stream)
    logs.get("scheduler.queue").info("pod bound", pod="shop/web-1", took=0.25, again=False)
    (line,) = _lines(stream)
    assert line.startswith("ts=2")
    assert line.endswith(
        'level=info logger=scheduler.queue msg="pod bound" pod=shop/web-1 took=0.25 again=false'
    )


def test_json_is_one_object_a_line() -> None:
    stream = io.StringIO()
    logs.setup(0, "json", stream)
    logs.get("agent").bind(pod="shop/web-1").warning("slow", error=ValueError("why"), event="x")
    logs.get("agent").error("done")
    first, second = map(json.loads, _lines(stream))
    assert list(first) == ["ts", "level", "logger", "msg", "pod", "error", "event"]
    assert (first["level"], first["msg"], first["pod"]) == ("warning", "slow", "shop/web-1")
    assert (first["error"], first["event"]) == ("why", "x")
    assert "pod" not in second


def test_a_terminal_gets_colours() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    logs.setup(stream=stream)
    logs.get("agent").info("started", nodes=3)
    assert "\x1b[" in stream.getvalue()
    assert "started" in stream.getvalue()


def test_debug_needs_verbosity() -> None:
    stream = io.StringIO()
    for verbosity, shown in {0: False, 3: False, 4: True, 9: True}.items():
        stream.truncate(0)
        logs.setup(verbosity, stream=stream)
        logs.get("agent").debug("details")
        assert ("details" in stream.getvalue()) is shown
        assert logs.enabled(4) is shown


def test_a_logger_made_before_setup_follows_it() -> None:
    early, stream = logs.get("early"), io.StringIO()
    logs.setup(4, "json", stream)
    early.debug("seen")
    assert json.loads(stream.getvalue())["msg"] == "seen"


def test_an_exception_brings_its_traceback_on_the_same_line() -> None:
    stream = io.StringIO()
    logs.setup(stream=stream)
    try:
        _fail(LookupError("no such node"))
    except LookupError:
        logs.get("agent").exception("sync failed")
    (line,) = _lines(stream)
    assert 'error="LookupError: no such node"' in line
    assert "test_runtime_logs.py" in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_credentials_never_come_out(form: logs.LogFormat) -> None:
    stream = io.StringIO()
    logs.setup(9, form, stream)
    log = logs.get("client")
    key = f"-----BEGIN RSA PRIVATE KEY-----\n{'c2VjcmV0' * 8}\n-----END RSA PRIVATE KEY-----"
    log.info("asking", authorization="Bearer hunter2hunter2", password="hunter2")
    log.info("headers", headers={"Authorization": "Bearer hunter2hunter2"})
    log.info("a token in a text", text=f"it is {TOKEN}", key=key)
    try:
        _fail(ValueError(f"bad answer to Bearer {TOKEN}"))
    except ValueError:
        log.exception("failed")
    logging.getLogger("library").warning("sent %s", TOKEN)
    assert len(_lines(stream)) == 5
    for secret in ("hunter2", TOKEN, TOKEN.rpartition(".")[2], "c2VjcmV0"):
        assert secret not in stream.getvalue()


def test_what_libraries_log_comes_out_in_our_form() -> None:
    stream = io.StringIO()
    logs.setup(0, "json", stream)
    logging.getLogger("asyncio").error("task %s died", "t-1")
    logging.getLogger("aiohttp.access").info("GET /metrics")
    (line,) = _lines(stream)
    assert json.loads(line)["msg"] == "task t-1 died"
    assert json.loads(line)["logger"] == "asyncio"


def test_setting_up_twice_doesnt_write_twice() -> None:
    stream = io.StringIO()
    logs.setup(stream=stream)
    logs.setup(stream=stream)
    logging.getLogger("library").warning("once")
    assert len(_lines(stream)) == 1


def test_the_official_clients_answers_are_never_logged() -> None:
    stream = io.StringIO()
    logs.setup(9, stream=stream)
    logging.getLogger("kubernetes.client.rest").debug("response body: %s", {"data": "c2VjcmV0"})
    assert stream.getvalue() == ""


def test_a_closed_standard_error_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = io.StringIO()
    gone.close()
    monkeypatch.setattr(sys, "stderr", gone)
    logs.get("agent").info("into the void")
    assert gone.closed
