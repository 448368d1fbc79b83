"""The ``whipstaff`` command: subcommands from entry points, exit codes, signals.

Each distribution brings its subcommands as entry points of the group ``whipstaff.commands``; the
name is the subcommand, the value a `click.Command`. One is imported only when it is called: neither
``whipstaff --help`` nor another subcommand pays for it, or breaks with it. Its line in the list of
commands is the first line of its function's docstring, read without importing the module.

`main` turns what goes wrong into one line on standard error: 2 for a usage or configuration error,
1 for anything else; tracebacks come with ``-v 4``. `run` is the one event loop of a component: it
ends by SIGTERM, which cancels the component's main task and gives it the time that it needs.

Answers to component-base ``cli`` and apiserver ``pkg/server/signal.go``. The flags that components
share are in `flags`. Left out: shell completion for what a subcommand completes by importing it.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gc
import importlib.metadata
import importlib.util
import os
import pathlib
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NoReturn

import click

from whipstaff.runtime import errors

ENTRY_POINTS = "whipstaff.commands"


class LazyGroup(click.Group):
    """A click group whose commands are entry points, each loaded when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the subcommands, sorted."""
        return sorted({*super().list_commands(ctx), *_entry_points()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one subcommand.

        Raises:
            errors.WhipstaffError: it is there and can't be loaded.
        """
        entry_point = _entry_points().get(cmd_name)
        if entry_point is None:
            return super().get_command(ctx, cmd_name)
        try:
            command = entry_point.load()
        except Exception as error:
            raise errors.WhipstaffError(
                f"the command {cmd_name!r} can't be loaded from {entry_point.value}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(command, click.Command):
            raise errors.WhipstaffError(
                f"the command {cmd_name!r} can't be used: {entry_point.value} is no click.Command"
            )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing any."""
        found = _entry_points()
        rows = [
            (name, _summary(found[name]) if name in found else "")
            for name in self.list_commands(ctx)
        ]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="whipstaff-runtime", message="whipstaff %(version)s")
def cli() -> None:
    """Kubernetes' scheduler, controllers and node agent in Python."""


def plugin() -> NoReturn:
    """The console script ``kubectl-whipstaff``, which kubectl runs as ``kubectl whipstaff``."""
    main(name="kubectl whipstaff")


def main(arguments: Sequence[str] | None = None, *, name: str = "whipstaff") -> NoReturn:
    """The console script: run a subcommand and leave with its exit code (None: sys.argv)."""
    try:
        code = cli.main(args=arguments, prog_name=name, standalone_mode=False)
    except BrokenPipeError:
        # The reader of standard output has left; without this, flushing at exit complains again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 (this is where every error becomes one line)
        sys.exit(report(error))
    sys.exit(code if isinstance(code, int) else 0)


def report(error: BaseException) -> int:
    """Say on standard error what went wrong, a line for each error, and give the exit code.

    Errors that come in groups, as from an `asyncio.TaskGroup`, are looked at one by one.
    """
    code = 1
    for leaf in _leaves(error):
        match leaf:
            case click.ClickException():
                leaf.show()
                code = leaf.exit_code
            case click.Abort():
                click.echo("Aborted.", err=True)
            case errors.WhipstaffError():
                click.echo(f"Error: {_one_line(leaf)}", err=True)
                code = 2 if isinstance(leaf, errors.ConfigurationError) else code
            case _:
                click.echo(f"Error: {_unexpected(leaf)}", err=True)
    if _wants_tracebacks():
        traceback.print_exception(error)
    return code


def run(component: Callable[[], Awaitable[None]]) -> None:
    """Run a component until it ends by itself or is told to: SIGTERM or SIGINT cancels it.

    It then drains for as long as it needs (`asyncio.CancelledError` reaches it; what it cleans up
    runs on); a second signal ends the process at once, with exit code 1. The loop is uvloop's where
    that is installed.

    Raises:
        Exception: what the component raised, while working or while draining.
    """
    try:
        import uvloop  # noqa: PLC0415 (optional, and slow to import for commands that don't run)
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    _spare_collector()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_until_stopped(component))


def _spare_collector() -> None:
    """Have the garbage collector look less often, and never at what was imported.

    Components hold many small objects that stay and have no cycles; looking through them is up to
    a seventh of a busy component's time at Python's own thresholds.
    """
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


async def _until_stopped(component: Callable[[], Awaitable[None]]) -> None:
    from whipstaff.runtime import logs  # noqa: PLC0415 (structlog is slow to import)

    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(component())
    stopping = False

    def stop(received: signal.Signals) -> None:
        nonlocal stopping
        log = logs.get("commands")
        if stopping:
            log.warning("stopping at once", signal=received.name)
            os._exit(1)
        log.info("stopping", signal=received.name)
        stopping = True
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not stopping:
            raise


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {found.name: found for found in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def _summary(entry_point: importlib.metadata.EntryPoint) -> str:
    """The first line of a command's docstring, from its source: importing it could be slow."""
    try:
        spec = importlib.util.find_spec(entry_point.module)
        if spec is None or spec.origin is None:
            return f"({entry_point.module} is not installed)"
        module = ast.parse(pathlib.Path(spec.origin).read_bytes())
    except Exception as error:  # noqa: BLE001 (one broken command must not break the list)
        return f"({entry_point.module} can't be read: {_one_line(error)})"
    functions = (
        node
        for node in module.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name == entry_point.attr
    )
    documented = next(functions, None)
    text = ast.get_docstring(documented if documented is not None else module) or ""
    return text.partition("\n")[0]


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _unexpected(error: BaseException) -> str:
    """An error that nobody foresaw: what and where, for the report that it deserves."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    hint = "" if _wants_tracebacks() else "; -v 4 shows the traceback"
    return f"unexpected {type(error).__name__}: {_one_line(error)}{where}{hint}"


def _wants_tracebacks() -> bool:
    with contextlib.suppress(KeyError):
        return bool(sys.modules["whipstaff.runtime.logs"].enabled(4))
    return False


if __name__ == "__main__":
    main()
