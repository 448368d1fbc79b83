"""Logs: key=value lines on standard error, coloured on a terminal, JSON where asked for.

A module has ``_log = logs.get("scheduler.queue")`` and says ``_log.info("pod bound", pod=key)``:
the message is a constant, what varies is in the values. `setup` says once per process how much is
written and in which form; it also takes in what libraries log through the standard library.

Verbosity is klog's ``-v N``: errors, warnings and ``info`` always, ``debug`` from 4 on. A call that
is off costs one comparison; where even computing the values is too much, ask `enabled` first.

No credential is ever written: values under telling keys, bearer tokens, JSON web tokens and private
keys are blanked in what goes out, whoever put them there. Answers to klog and component-base
``logs/api/v1``. Left out: klog's own line format, log files, per-module verbosity (``--vmodule``).
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO, TypeAlias

import orjson

# structlog imports rich where that is installed, for tracebacks that nobody here asks for: 3 MB,
# and two thirds of the time that it takes.
_rich = sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
try:
    import structlog
finally:
    if _rich is None:
        del sys.modules["rich"]

LogFormat: TypeAlias = Literal["text", "json"]
DEBUG = 4
"""The verbosity from which ``debug`` is written, and tracebacks of errors that end a command."""

_SECRET_KEYS = frozenset(
    ("authorization", "bearer_token", "client_key", "password", "private_key", "secret", "token")
)
_SECRET_TEXT = re.compile(
    r"(?P<scheme>\b[Bb]earer\s+)[\w.~+/=-]{8,}"
    r"|\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)",
    re.DOTALL,
)
_BLANK = "[redacted]"
_FIRST_KEYS = ("ts", "level", "logger", "msg")


class Logger(structlog.BoundLoggerBase):
    """A structlog logger whose level and form `setup` may change at any time.

    ``bind(pod=...)`` gives one that adds values to each line.
    """

    def debug(self, message: str, /, **values: Any) -> None:
        """What helps to follow one decision; from verbosity 4 on."""
        if _output.verbosity >= DEBUG:
            self._write("debug", message, values)

    def info(self, message: str, /, **values: Any) -> None:
        """What an operator wants to know happened."""
        self._write("info", message, values)

    def warning(self, message: str, /, **values: Any) -> None:
        """What may need somebody, and goes on."""
        self._write("warning", message, values)

    def error(self, message: str, /, **values: Any) -> None:
        """What failed."""
        self._write("error", message, values)

    def exception(self, message: str, /, **values: Any) -> None:
        """What failed, with the traceback of the exception being handled."""
        self._write("error", message, {"exc_info": True, **values})

    def _write(self, level: str, message: str, values: dict[str, Any]) -> None:
        (line,), _ = self._process_event(level, None, {"msg": message, **values})
        _output.write(line)


class _Output:
    """Where lines go, and from which verbosity on. One a process."""

    def __init__(self) -> None:
        self.verbosity = 0
        self.stream: TextIO | None = None

    def write(self, line: str) -> None:
        stream = self.stream or sys.stderr
        # Nobody reads standard error any more: there is nowhere to say so, and work goes on.
        with contextlib.suppress(OSError, ValueError):
            stream.write(line + "\n")
            stream.flush()


class _FromStandardLibrary(logging.Handler):
    """Takes what asyncio, aiohttp and other libraries log into our lines."""

    def emit(self, record: logging.LogRecord) -> None:
        values: dict[str, Any] = {"exc_info": record.exc_info} if record.exc_info else {}
        method = "debug" if record.levelno < logging.INFO else record.levelname.lower()
        logger = get(record.name)
        write = getattr(logger, method, logger.error)
        write(record.getMessage(), **values)


def setup(verbosity: int = 0, log_format: LogFormat = "text", stream: TextIO | None = None) -> None:
    """Set how much is logged, and how; what was logged before this went out as ``text`` at 0.

    Args:
        verbosity: klog's ``-v``.
        log_format: ``text`` is key=value, in colours where `stream` is a terminal.
        stream: None is standard error.
    """
    _output.verbosity = verbosity
    _output.stream = stream
    _processors[:] = [_prepare, _renderer(log_format, stream or sys.stderr), _blank]
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _FromStandardLibrary)]:
        root.removeHandler(handler)
    root.addHandler(_FromStandardLibrary())
    root.setLevel(logging.DEBUG if verbosity >= 2 * DEBUG else logging.WARNING)
    # The official client logs whole answers at DEBUG, tokens and Secrets among them.
    logging.getLogger("kubernetes").setLevel(logging.WARNING)


def get(name: str) -> Logger:
    """The logger of a part of a component, such as ``scheduler.queue``."""
    return Logger(None, _processors, {"logger": name})


def enabled(verbosity: int) -> bool:
    """Whether lines of a verbosity are written; ask before computing expensive values."""
    return _output.verbosity >= verbosity


def _renderer(log_format: LogFormat, stream: TextIO) -> structlog.typing.Processor:
    if log_format == "json":
        return _render_json
    if stream.isatty():
        return structlog.dev.ConsoleRenderer(
            colors=True, event_key="msg", timestamp_key="ts", sort_keys=False
        )
    return _render_text


def _render_json(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    ordered = {key: event.pop(key, "") for key in _FIRST_KEYS} | dict(event)
    return orjson.dumps(ordered, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


_stamp = structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts")


def _prepare(logger: Any, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add time and level, turn an exception into texts, blank what a key gives away."""
    event["level"] = level
    exception = event.pop("exc_info", None)
    if exception is True:
        exception = sys.exc_info()
    if isinstance(exception, tuple):
        exception = exception[1]
    if isinstance(exception, BaseException):
        event["error"] = f"{type(exception).__name__}: {exception}"
        event["exception"] = "".join(traceback.format_exception(exception)).rstrip()
    for key in _SECRET_KEYS & event.keys():
        event[key] = _BLANK
    return _stamp(logger, level, event)


def _blank(_: Any, __: str, line: Any) -> str:
    """Blank credentials in a finished line, wherever in a text or a traceback they are."""
    return _SECRET_TEXT.sub(lambda match: (match["scheme"] or "") + _BLANK, line)


_render_text = structlog.processors.LogfmtRenderer(key_order=_FIRST_KEYS, bool_as_flag=False)
_output = _Output()
_processors: list[structlog.typing.Processor] = [
    _prepare,
    _render_text,
    _blank,
]
