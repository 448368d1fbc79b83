"""Resource quantities: ``100m``, ``1.5Gi``, ``12e6``, exactly.

A quantity is a decimal number with a suffix. Here it becomes a whole number of nanos (the smallest
unit that the API keeps), so nothing is ever rounded by a float; callers get a `Fraction`, or the
integers that arrays and cgroups want. There is no loop here and nothing is owned but caches: the
same few texts come by once for every container, so every path from a text is cached.

Answers to apimachinery ``pkg/api/resource/{quantity,amount,suffix}.go``. The differences are all in
texts that no machine means: one without a digit (``.``, ``Ki``) is refused where upstream reads 0;
`value` and `milli_value` stop at the end of int64 where upstream returns 0 or wraps around, and
round negative fractions away from zero as upstream documents it but doesn't always do it; and
formatting always gives the canonical form, where upstream keeps some spellings (``+5``, ``1.500``)
as they came. Left out: arithmetic on the type itself, for `Fraction` has it.
"""

from __future__ import annotations

import decimal
import functools
import re
from fractions import Fraction
from typing import Literal, TypeAlias

Format: TypeAlias = Literal["BinarySI", "DecimalSI", "DecimalExponent"]
Quantity: TypeAlias = str | int | float | Fraction

MAX_INT64 = 2**63 - 1

_NANO = 10**9
# Upstream keeps any exponent; a text such as 1e2000000000 must not cost memory here. The largest
# thing with a name is 2^63 - 1, about 10^19.
_LARGEST_EXPONENT = 100
_DECIMAL_EXPONENTS = {"n": -9, "u": -6, "m": -3, "": 0} | {
    suffix: 3 * (i + 1) for i, suffix in enumerate("kMGTPE")
}
_DECIMAL_SUFFIXES = {exponent: suffix for suffix, exponent in _DECIMAL_EXPONENTS.items()}
_BINARY_SUFFIXES = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_BINARY_POWERS = {suffix: power for power, suffix in enumerate(_BINARY_SUFFIXES) if suffix}
_GRAMMAR = re.compile(
    r"(?P<sign>[+-]?)(?P<digits>[0-9]+\.?[0-9]*|\.[0-9]+)"
    r"(?:(?P<binary>[KMGTPE]i)|[eE](?P<exponent>[+-]?[0-9]+)|(?P<decimal>[numkMGTPE]?))"
)


def parse(quantity: Quantity) -> Fraction:
    """The exact amount, e.g. ``Fraction(1, 10)`` for ``"100m"``; comparable and summable.

    Anything finer than a nano is rounded away from zero to a nano, and a binary amount is capped at
    2^63 - 1, as upstream's ParseQuantity does.

    Raises:
        ValueError: the text isn't a quantity; the message names it.
    """
    return Fraction(_nanos(quantity), _NANO)


def value(quantity: Quantity) -> int:
    """The amount in whole units (bytes, cores, pods), rounded up (away from zero).

    Raises:
        ValueError: the text isn't a quantity; the message names it.
    """
    if type(quantity) is str:
        return _value_of_text(quantity)
    return _saturated(_nanos(quantity), _NANO)


def milli_value(quantity: Quantity) -> int:
    """The amount in thousandths (millicores), rounded up (away from zero).

    Raises:
        ValueError: the text isn't a quantity; the message names it.
    """
    if type(quantity) is str:
        return _milli_value_of_text(quantity)
    return _saturated(_nanos(quantity), _NANO // 1000)


def format_of(text: str) -> Format:
    """The family of suffixes that a text uses; what `format_quantity` needs to write it back.

    Raises:
        ValueError: the text isn't a quantity; the message names it.
    """
    return _parse_text(text)[1]


def format_quantity(amount: Quantity, form: Format = "DecimalSI") -> str:
    """The canonical text: no fraction, no sign but minus, the largest suffix that stays exact.

    ``BinarySI`` falls back to ``DecimalSI`` below 1024 and for amounts with a fraction, as
    upstream's ``CanonicalizeBytes`` does: 1.5 Gi is ``1536Mi``, half a byte is ``500m``.

    Raises:
        ValueError: `amount` is a text that isn't a quantity; the message names it.
    """
    nanos = _nanos(amount)
    if nanos == 0:
        return "0"
    if form == "BinarySI" and abs(nanos) >= 1024 * _NANO and nanos % _NANO == 0:
        return _format_binary(nanos // _NANO)
    exponent = -9
    while nanos % 1000 == 0 and (exponent < 18 or form == "DecimalExponent"):
        nanos //= 1000
        exponent += 3
    if form == "DecimalExponent":
        return f"{nanos}e{exponent}" if exponent else str(nanos)
    return f"{nanos}{_DECIMAL_SUFFIXES[exponent]}"


def canonical(text: str) -> str:
    """The same quantity as the API server would write it: ``1024Ki`` is ``1Mi``.

    Raises:
        ValueError: the text isn't a quantity; the message names it.
    """
    nanos, form = _parse_text(text)
    return format_quantity(Fraction(nanos, _NANO), form)


def _format_binary(whole: int) -> str:
    power = 0
    while whole % 1024 == 0 and power < len(_BINARY_SUFFIXES) - 1:
        whole //= 1024
        power += 1
    return f"{whole}{_BINARY_SUFFIXES[power]}"


def _nanos(quantity: Quantity) -> int:
    """Whole nanos of any accepted form."""
    match quantity:
        case str():
            return _parse_text(quantity)[0]
        case bool():
            raise ValueError(f"{quantity!r} is not a quantity")
        case int():
            return quantity * _NANO
        case Fraction():
            return _rounded_away(quantity.numerator * _NANO, quantity.denominator)
        case float():
            # repr gives the shortest decimal that means this float, which is what a YAML file said.
            return _parse_text(repr(quantity))[0]
        case _:
            raise ValueError(f"{quantity!r} is not a quantity")


@functools.lru_cache(maxsize=1 << 14)
def _parse_text(text: str) -> tuple[int, Format]:
    """Nanos and suffix family of a text."""
    match = _GRAMMAR.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{_shown(text)} is not a quantity (such as 100m, 1.5Gi or 12e6)")
    sign = -1 if match["sign"] == "-" else 1
    if match["binary"]:
        scale = 1024 ** _BINARY_POWERS[match["binary"]]
        nanos = min(_scaled(match["digits"], 0, scale), MAX_INT64 * _NANO)
        # Below one byte a binary suffix would have to round, so the decimal family takes over.
        return sign * nanos, "DecimalSI" if 0 < nanos < _NANO else "BinarySI"
    if match["exponent"]:
        return sign * _scaled(match["digits"], int(match["exponent"][:9])), "DecimalExponent"
    return sign * _scaled(match["digits"], _DECIMAL_EXPONENTS[match["decimal"]]), "DecimalSI"


def _scaled(digits: str, exponent: int, scale: int = 1) -> int:
    """Turn digits x 10^exponent x scale into nanos, rounded up."""
    number = decimal.Decimal(digits)
    if not number:
        return 0
    magnitude = number.adjusted() + exponent
    if magnitude > _LARGEST_EXPONENT:
        return int(10 ** (_LARGEST_EXPONENT + 9))
    if magnitude < -_LARGEST_EXPONENT:
        return 1
    numerator, denominator = number.as_integer_ratio()
    numerator *= scale * _NANO * 10 ** max(exponent, 0)
    return _rounded_away(numerator, int(denominator * 10 ** max(-exponent, 0)))


def _rounded_away(numerator: int, denominator: int) -> int:
    if numerator < 0:
        return numerator // denominator
    return -(-numerator // denominator)


def _saturated(nanos: int, unit: int) -> int:
    return max(-MAX_INT64, min(MAX_INT64, _rounded_away(nanos, unit)))


@functools.lru_cache(maxsize=1 << 14)
def _value_of_text(text: str) -> int:
    return _saturated(_parse_text(text)[0], _NANO)


@functools.lru_cache(maxsize=1 << 14)
def _milli_value_of_text(text: str) -> int:
    return _saturated(_parse_text(text)[0], _NANO // 1000)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 64 else text[:61] + "...")
