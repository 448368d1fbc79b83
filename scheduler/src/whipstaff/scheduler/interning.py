"""Columns of the snapshot whose values aren't numbers: labels, taints, host ports and images.

No loop runs here; each class owns the arrays of one kind of column and is owned by the snapshot,
which tells it of rows that are set, moved and cleared. A text is stored once and rows hold small
integers, so a question about a text is asked once a distinct text and answered for all rows by
indexing. What no row uses any more is forgotten, so a cluster whose nodes come and go for months
doesn't grow its dictionaries; a code may come to mean another text after that, so codes must not
be kept from one decision to the next.

Answers to the maps in upstream's `NodeInfo` (`pkg/scheduler/framework/types.go`) and to
`imageStates` in `pkg/scheduler/backend/cache/cache.go`.

Arrays are as long as the snapshot's capacity; the snapshot knows how many rows are in use.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from whipstaff.runtime import selectors

Int32s = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]

_Value = TypeVar("_Value", bound=Hashable)
_Scalar = TypeVar("_Scalar", bound=np.generic)


def longer(column: npt.NDArray[_Scalar], capacity: int) -> npt.NDArray[_Scalar]:
    """A copy of `column` (rows first) with room for `capacity` rows, the new ones zero."""
    grown = np.zeros((capacity, *column.shape[1:]), column.dtype, order="F")
    grown[: len(column)] = column
    return grown


class Dictionary(Generic[_Value]):
    """A column of arbitrary values: an int32 code a row, 0 where there is no value."""

    def __init__(self, capacity: int) -> None:
        self.codes: Int32s = np.zeros(capacity, np.int32)  # (capacity,)
        self._code_of: dict[_Value, int] = {}
        self._values: list[_Value | None] = [None]  # by code
        self._uses: list[int] = [0]  # by code
        self._unused: list[int] = []
        self._numbers: tuple[npt.NDArray[np.int64], Bools] | None = None

    def __len__(self) -> int:
        """The number of distinct values in use."""
        return len(self._code_of)

    def code_of(self, value: _Value) -> int:
        """The code of `value`; -1, which no row has, if no row has the value."""
        return self._code_of.get(value, -1)

    def assign(self, row: int, value: _Value | None) -> None:
        """Sets the row's value; None for no value."""
        before = int(self.codes[row])
        self.codes[row] = 0 if value is None else self._claim(value)
        self._release(before)

    def move(self, source: int, target: int) -> None:
        """Gives the row `target`, which has no value, that of `source`, which then has none."""
        self.codes[target] = self.codes[source]
        self.codes[source] = 0

    def grow(self, capacity: int) -> None:
        """Makes room for `capacity` rows."""
        self.codes = longer(self.codes, capacity)

    def table(self, answer: Callable[[_Value], Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """`answer` for each value in use, indexed by code; 0 at code 0: `table(...)[codes]`."""
        answers = np.zeros(len(self._values), dtype)
        for value, code in self._code_of.items():
            answers[code] = answer(value)
        return answers

    def numbers(self) -> tuple[npt.NDArray[np.int64], Bools]:
        """Each text as a number, and whether it is one; both indexed by code."""
        if self._numbers is None:
            numbers = np.zeros(len(self._values), np.int64)
            valid = np.zeros(len(self._values), np.bool_)
            for value, code in self._code_of.items():
                number = selectors.integer(str(value))
                if number is not None:
                    numbers[code], valid[code] = number, True
            self._numbers = numbers, valid
        return self._numbers

    def _claim(self, value: _Value) -> int:
        code = self._code_of.get(value)
        if code is None:
            self._numbers = None
            if self._unused:
                code = self._unused.pop()
                self._values[code] = value
            else:
                code = len(self._values)
                self._values.append(value)
                self._uses.append(0)
            self._code_of[value] = code
        self._uses[code] += 1
        return code

    def _release(self, code: int) -> None:
        if code == 0:
            return
        self._uses[code] -= 1
        if self._uses[code] == 0:
            value = self._values[code]
            if value is not None:
                del self._code_of[value]
            self._values[code] = None
            self._unused.append(code)
            self._numbers = None


class Labels:
    """The nodes' labels: a `Dictionary` a key."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._columns: dict[str, Dictionary[str]] = {}

    def column(self, key: str) -> Dictionary[str] | None:
        """The column of `key`; None if no node has the label."""
        return self._columns.get(key)

    def assign(self, row: int, before: Mapping[str, str], after: Mapping[str, str]) -> None:
        """Replaces the row's labels."""
        for key in before.keys() - after.keys():
            column = self._columns[key]
            column.assign(row, None)
            if not column:
                del self._columns[key]
        for key, value in after.items():
            if before.get(key) == value:
                continue
            if key not in self._columns:
                self._columns[key] = Dictionary(self._capacity)
            self._columns[key].assign(row, value)

    def move(self, source: int, target: int, labels: Mapping[str, str]) -> None:
        """Moves `labels`, which are those of row `source`, to row `target`, which has none."""
        for key in labels:
            self._columns[key].move(source, target)

    def grow(self, capacity: int) -> None:
        """Makes room for `capacity` rows."""
        self._capacity = capacity
        for column in self._columns.values():
            column.grow(capacity)

    def matches(self, requirement: selectors.Requirement, rows: Any, size: int) -> Bools:
        """Which of `rows`, among the first `size`, meet the requirement: `(rows,)`.

        Source: `Requirement.Matches` in `k8s.io/apimachinery/pkg/labels/selector.go`.
        """
        column = self._columns.get(requirement.key)
        if column is None:
            absent_fits = requirement.operator in ("NotIn", "DoesNotExist")
            return np.full(len(np.empty(size, np.bool_)[rows]), absent_fits)
        codes = column.codes[:size][rows]
        match requirement.operator:
            case "In":
                matched = _among(column, codes, requirement.values)
            case "NotIn":
                matched = ~_among(column, codes, requirement.values)
            case "Exists":
                matched = codes != 0
            case "DoesNotExist":
                matched = codes == 0
            case "Gt" | "Lt":
                matched = _compared(column, codes, requirement)
        return matched


def _among(column: Dictionary[str], codes: Int32s, values: Sequence[str]) -> Bools:
    if len(values) == 1:
        matched: Bools = codes == column.code_of(values[0])
        return matched
    return np.isin(codes, [column.code_of(value) for value in values])


def _compared(column: Dictionary[str], codes: Int32s, requirement: selectors.Requirement) -> Bools:
    bound = selectors.integer(requirement.values[0])
    numbers, valid = column.numbers()
    if bound is None:
        return np.zeros(len(codes), np.bool_)
    met = numbers > bound if requirement.operator == "Gt" else numbers < bound
    matched: Bools = (valid & met)[codes]
    return matched


class Taint(NamedTuple):
    """A taint without its time."""

    key: str
    value: str
    effect: str


Taints = Dictionary[tuple[Taint, ...]]
"""The nodes' taints: the whole list is one value, code 0 for a node without taints."""


def read_taints(taints: Iterable[Mapping[str, Any]] | None) -> tuple[Taint, ...] | None:
    """A node's `spec.taints` as a value of a `Taints` column."""
    return (
        tuple(
            Taint(taint["key"], taint.get("value") or "", taint.get("effect") or "")
            for taint in taints or ()
        )
        or None
    )


class Ports(Generic[_Value]):
    """How many pods of each node hold each (address, protocol, port)."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.columns: dict[_Value, Int32s] = {}  # each (capacity,)
        self._totals: dict[_Value, int] = {}

    def count(self, row: int, port: _Value, change: int) -> None:
        """Adds `change` to the number of the row's pods that hold `port`."""
        if port not in self.columns:
            self.columns[port] = np.zeros(self._capacity, np.int32)
            self._totals[port] = 0
        self.columns[port][row] += change
        self._totals[port] += change
        if self._totals[port] == 0:
            del self.columns[port], self._totals[port]

    def move(self, source: int, target: int) -> None:
        """Moves the counts of row `source` to row `target`, which has none."""
        for column in self.columns.values():
            column[target] = column[source]
            column[source] = 0

    def grow(self, capacity: int) -> None:
        """Makes room for `capacity` rows."""
        self._capacity = capacity
        self.columns = {port: longer(column, capacity) for port, column in self.columns.items()}


class Image:
    """One image name: how large it is, and which nodes hold it."""

    __slots__ = ("held", "node_count", "size")

    def __init__(self, size: int, capacity: int) -> None:
        self.size = size  # bytes, as the first node that held it said
        self.held: Bools = np.zeros(capacity, np.bool_)  # (capacity,)
        self.node_count = 0


class Images:
    """The images that the nodes hold, by each of their names."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._images: dict[str, Image] = {}

    def get(self, name: str) -> Image | None:
        """The image of that name, if any node holds it."""
        return self._images.get(name)

    def assign(self, row: int, before: Iterable[str], after: Mapping[str, int]) -> None:
        """Replaces the names of the row's images; `after` gives each one's size in bytes."""
        for name in before:
            image = self._images[name]
            image.held[row] = False
            image.node_count -= 1
            if image.node_count == 0:
                del self._images[name]
        for name, size in after.items():
            found = self._images.get(name)
            if found is None:
                found = self._images[name] = Image(size, self._capacity)
            found.held[row] = True
            found.node_count += 1

    def move(self, source: int, target: int, names: Iterable[str]) -> None:
        """Moves `names`, which are those of row `source`, to row `target`, which has none."""
        for name in names:
            held = self._images[name].held
            held[target], held[source] = True, False

    def grow(self, capacity: int) -> None:
        """Makes room for `capacity` rows."""
        self._capacity = capacity
        for image in self._images.values():
            image.held = longer(image.held, capacity)


def read_images(images: Iterable[Mapping[str, Any]] | None) -> dict[str, int]:
    """A node's `status.images` as sizes by name; the first entry of a name counts."""
    sizes: dict[str, int] = {}
    for image in images or ():
        for name in image.get("names") or ():
            sizes.setdefault(name, image.get("sizeBytes") or 0)
    return sizes
