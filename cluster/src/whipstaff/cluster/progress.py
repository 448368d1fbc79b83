"""What ``up`` and ``down`` show while they work: a line a step, with a spinner on a terminal.

Without a terminal (a pipe, a CI log) it is the same lines, each when its step is done, and nothing
is ever overwritten.
"""

import contextlib
import time
from collections.abc import Iterator

import rich.console
import rich.status

_QUIET = 10.0  # seconds between two reports of one step where lines can't be overwritten


class Step:
    """One step under way."""

    def __init__(
        self, console: rich.console.Console, title: str, status: rich.status.Status | None
    ) -> None:
        self._console = console
        self._title = title
        self._status = status
        self._last = time.monotonic()
        self.result = ""

    def update(self, text: str) -> None:
        """Say how far it is."""
        if self._status is not None:
            self._status.update(f"{self._title}: {text}")
        elif time.monotonic() - self._last >= _QUIET:
            self._last = time.monotonic()
            self._console.print(f"  {self._title}: {text}")


class Progress:
    """Writes steps and lines to a console."""

    def __init__(self, console: rich.console.Console | None = None) -> None:
        self.console = console or rich.console.Console(highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def under_way(self, title: str) -> Iterator[Step]:
        """Show ``title`` as under way while the block runs."""
        with contextlib.ExitStack() as stack:
            status = None
            if self.console.is_terminal:
                status = stack.enter_context(self.console.status(title))
            yield Step(self.console, title, status)

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """The same, and a line with `Step.result` when it is done."""
        begun = time.monotonic()
        with self.under_way(title) as step:
            yield step
        self.done(title, step.result, time.monotonic() - begun)

    def done(self, title: str, result: str = "", seconds: float | None = None) -> None:
        """A line for a step that is done."""
        took = "" if seconds is None or seconds < 0.05 else f"  [dim]{seconds:.1f} s[/dim]"
        self.console.print(f"[green]✓[/green] {title:<24}{result}{took}")

    def line(self, text: str = "") -> None:
        """Any line."""
        self.console.print(text, markup=False)
