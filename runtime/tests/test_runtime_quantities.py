"""Quantities are read exactly, rounded up, and written as the API server writes them."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whipstaff.runtime import quantities

# text, Value(), MilliValue(), canonical text, format: what k8s.io/apimachinery v0.36.3 answers.
UPSTREAM = [
    ("0", 0, 0, "0", "DecimalSI"),
    ("0Ki", 0, 0, "0", "BinarySI"),
    ("1", 1, 1000, "1", "DecimalSI"),
    ("+5", 5, 5000, "5", "DecimalSI"),
    ("-5", -5, -5000, "-5", "DecimalSI"),
    ("007", 7, 7000, "7", "DecimalSI"),
    ("100m", 1, 100, "100m", "DecimalSI"),
    ("0.1", 1, 100, "100m", "DecimalSI"),
    (".5", 1, 500, "500m", "DecimalSI"),
    ("5.", 5, 5000, "5", "DecimalSI"),
    ("1.5", 2, 1500, "1500m", "DecimalSI"),
    ("1500m", 2, 1500, "1500m", "DecimalSI"),
    ("1n", 1, 1, "1n", "DecimalSI"),
    ("0.1n", 1, 1, "1n", "DecimalSI"),
    ("1u", 1, 1, "1u", "DecimalSI"),
    ("1001u", 1, 2, "1001u", "DecimalSI"),
    ("1k", 1000, 1000000, "1k", "DecimalSI"),
    ("1000", 1000, 1000000, "1k", "DecimalSI"),
    ("12M", 12000000, 12000000000, "12M", "DecimalSI"),
    ("3G", 3 * 10**9, 3 * 10**12, "3G", "DecimalSI"),
    ("3T", 3 * 10**12, 3 * 10**15, "3T", "DecimalSI"),
    ("3P", 3 * 10**15, 3 * 10**18, "3P", "DecimalSI"),
    ("1Ki", 1024, 1024000, "1Ki", "BinarySI"),
    ("1024Ki", 2**20, 2**20 * 1000, "1Mi", "BinarySI"),
    ("1.5Gi", 3 * 2**29, 3 * 2**29 * 1000, "1536Mi", "BinarySI"),
    ("0.5Ki", 512, 512000, "512", "BinarySI"),
    ("0.0001Ki", 1, 103, "102400u", "DecimalSI"),
    ("0.3Mi", 314573, 314572800, "314572800m", "BinarySI"),
    ("16374532Ki", 16374532 * 1024, 16374532 * 1024000, "16374532Ki", "BinarySI"),
    ("4Ti", 2**42, 2**42 * 1000, "4Ti", "BinarySI"),
    ("5Pi", 5 * 2**50, 5 * 2**50 * 1000, "5Pi", "BinarySI"),
    ("12e6", 12000000, 12000000000, "12e6", "DecimalExponent"),
    ("12E6", 12000000, 12000000000, "12e6", "DecimalExponent"),
    ("10e2", 1000, 1000000, "1e3", "DecimalExponent"),
    ("1e-3", 1, 1, "1e-3", "DecimalExponent"),
    ("1e-12", 1, 1, "1e-9", "DecimalExponent"),
    ("1e+3", 1000, 1000000, "1e3", "DecimalExponent"),
    ("1e0", 1, 1000, "1", "DecimalExponent"),
]

NOT_QUANTITIES = [
    *("", " ", "x", "1x", "ki", "1ki", "1K", "1mi", "1e", "1e1.5", "1Em", "1 Gi", "1,5"),
    *("1Gi ish", "--1", "0x10", "1.2.3", ".", "+", "Ki", "inf", "nan", "١", "1e+"),  # noqa: RUF001
]

amounts = st.integers(min_value=-(10**27), max_value=10**27).map(lambda n: Fraction(n, 10**9))
formats = st.sampled_from(["BinarySI", "DecimalSI", "DecimalExponent"])
texts = st.from_regex(r"[0-9]{1,6}(\.[0-9]{0,4})?([numkMGT]|[KMGT]i|e-?[0-9])?", fullmatch=True)


@pytest.mark.parametrize(("text", "whole", "milli", "canonical", "form"), UPSTREAM)
def test_a_text_means_what_it_means_to_upstream(
    text: str, whole: int, milli: int, canonical: str, form: quantities.Format
) -> None:
    assert quantities.value(text) == whole
    assert quantities.milli_value(text) == milli
    assert quantities.canonical(text) == canonical
    assert quantities.format_of(text) == form


@pytest.mark.parametrize("text", NOT_QUANTITIES)
def test_what_is_no_quantity_is_refused_by_its_text(text: str) -> None:
    for read in (quantities.parse, quantities.value, quantities.milli_value, quantities.canonical):
        with pytest.raises(ValueError, match="is not a quantity") as refusal:
            read(text)
        assert repr(text) in str(refusal.value)


@pytest.mark.parametrize("thing", [True, None, [], float("nan"), float("inf")])
def test_what_is_no_text_or_number_is_refused(thing: Any) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        quantities.value(thing)


def test_a_long_wrong_text_is_shortened_in_the_message() -> None:
    with pytest.raises(ValueError, match="is not a quantity") as refusal:
        quantities.parse("z" * 10_000)
    assert len(str(refusal.value)) < 200


def test_numbers_from_configuration_files_are_read_too() -> None:
    assert quantities.milli_value(2) == 2000
    assert quantities.milli_value(0.1) == 100
    assert quantities.parse(0.1) == Fraction(1, 10)
    assert quantities.value(1e16) == 10**16
    assert quantities.value(Fraction(7, 2)) == 4


def test_sums_of_parsed_amounts_are_exact() -> None:
    total = sum((quantities.parse("100m") for _ in range(10)), start=Fraction(0))
    assert total == 1
    assert quantities.format_quantity(total) == "1"


def test_a_binary_amount_is_capped_at_int64_as_the_api_does() -> None:
    assert quantities.parse("8Ei") == 2**63 - 1
    assert quantities.value("-20Ei") == -(2**63 - 1)
    assert quantities.canonical("8Ei") == "9223372036854775807"


def test_an_amount_too_big_for_an_array_stops_at_int64() -> None:
    for huge in ("1000E", "1e30", "1e2000000000", "9" * 5000):
        assert quantities.value(huge) == quantities.MAX_INT64
        assert quantities.milli_value(huge) == quantities.MAX_INT64
        assert quantities.value("-" + huge) == -quantities.MAX_INT64


def test_an_amount_too_small_to_keep_is_one_nano() -> None:
    assert quantities.parse("1e-2000000000") == Fraction(1, 10**9)
    assert quantities.parse("-1e-15") == Fraction(-1, 10**9)
    assert quantities.parse("0e-2000000000") == 0


def test_a_binary_amount_that_isnt_whole_or_is_small_is_written_in_decimal() -> None:
    assert quantities.format_quantity(Fraction(1023), "BinarySI") == "1023"
    assert quantities.format_quantity(Fraction(2049, 2), "BinarySI") == "1024500m"
    assert quantities.format_quantity(-2048, "BinarySI") == "-2Ki"


@given(amounts, formats)
def test_what_is_written_reads_back_as_the_same_amount(
    amount: Fraction, form: quantities.Format
) -> None:
    assert quantities.parse(quantities.format_quantity(amount, form)) == amount


@given(texts)
def test_the_canonical_text_is_its_own_canonical_text(text: str) -> None:
    canonical = quantities.canonical(text)
    assert quantities.parse(canonical) == quantities.parse(text)
    assert quantities.canonical(canonical) == canonical


@given(texts, texts)
def test_order_and_sums_are_those_of_the_numbers(a: str, b: str) -> None:
    low, high = sorted((a, b), key=quantities.parse)
    assert quantities.value(low) <= quantities.value(high)
    assert quantities.milli_value(low) <= quantities.milli_value(high)
    together = quantities.parse(a) + quantities.parse(b)
    assert quantities.parse(quantities.format_quantity(together)) == together


@given(amounts.filter(lambda amount: abs(amount) < 10**15))
def test_rounding_is_away_from_zero_and_less_than_one_unit(amount: Fraction) -> None:
    for rounded, unit in ((quantities.value(amount), 1), (quantities.milli_value(amount), 1000)):
        assert 0 <= abs(rounded) - abs(amount * unit) < 1
        assert rounded * amount >= 0
