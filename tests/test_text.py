"""Words and numbers as people read them."""

from html import unescape

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uflow_cli.text import brief, cells, clean, readable


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-12.34, "−12.3"),
        (12345.6, "12,345.6"),
        (-0.01, "0.0"),
        (-1.17e9, "−1.2×10⁹"),
        (3e13, "3.0×10¹³"),
        (999999.0, "999,999.0"),
        (np.inf, "∞"),
        (-np.inf, "−∞"),
        (np.nan, "–"),
    ],
)
def test_numbers_are_written_for_people(value: float, shown: str) -> None:
    assert readable(value) == shown


def test_a_round_large_number_is_a_bare_power() -> None:
    assert (readable(-1e6, 0), readable(3e6, 0)) == ("−10⁶", "3×10⁶")


@pytest.mark.parametrize(("value", "shown"), [(0.0, "0"), (-1.5, "−1.5"), (100.0, "100"), (-2.345, "−2.35")])
def test_chosen_numbers_have_no_needless_digits(value: float, shown: str) -> None:
    assert brief(value) == shown


@given(st.text())
def test_text_survives_escaping(text: str) -> None:
    expected = "".join(c if c.isprintable() or c == " " else "\ufffd" for c in text)
    assert unescape(clean(text)) == expected
    assert not set("<>\"'") & set(clean(text))


@pytest.mark.parametrize(
    ("text", "n"), [("part", 4), ("良品", 4), ("ｱ", 1), ("Ａ", 2), ("e\u0301", 1), ("é", 1), ("", 0)]
)
def test_cells_are_what_a_terminal_takes_for_a_text(text: str, n: int) -> None:
    assert cells(text) == n
