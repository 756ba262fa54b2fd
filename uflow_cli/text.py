"""Words and numbers as they stand on the page."""

import math
import unicodedata
from collections.abc import Sequence
from html import escape
from typing import Final

_LARGE: Final = 1e6
_REASON: Final = 200  # characters of what others wrote
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # how a text begins that a spreadsheet would compute
_SUPERSCRIPTS: Final = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def clean(text: str) -> str:
    """Any text, file names that are no Unicode included, ready to stand in HTML or in a quoted attribute."""
    return escape(printable(text))


def printable(text: str) -> str:
    """Any text, with a replacement for bytes that are no Unicode and for characters that cannot be shown."""
    known = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in known)


def cells(text: str) -> int:
    """Columns of a terminal that `text` takes: two for a wide character, none for a mark on the one before it."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in text
    )


def inert(text: str) -> str:
    """`text` for the cell of a table, with an apostrophe before it where a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def in_one_line(error: object) -> str:
    """The beginning of what `error` says, for a message of ours."""
    return shortened(" ".join(str(error).split()))


def shortened(text: str) -> str:
    """The beginning of `text` where it is too long to be read in a message."""
    return text if len(text) <= _REASON else f"{text[:_REASON]}..."


def first_of(names: Sequence[str], n: int) -> str:
    """The first `n` of `names`, and how many more there are."""
    more = f" and {len(names) - n} more" if len(names) > n else ""
    return ", ".join(names[:n]) + more


def brief(value: float) -> str:
    """A number that somebody chose, with no more digits than it needs."""
    text = readable(value, 2)
    return text.rstrip("0").rstrip(".") if "." in text else text


def readable(value: float, digits: int = 1) -> str:
    """A number for people: thousands apart, powers of ten above that, a true minus sign, ∞, – for what is no number."""
    if math.isnan(value):
        return "–"
    size = abs(value)
    text = "∞" if math.isinf(value) else _power(size, digits) if size >= _LARGE else f"{size:,.{digits}f}"
    return f"−{text}" if value < 0 and text.strip("0.,") else text


def _power(size: float, digits: int) -> str:
    mantissa, exponent = f"{size:.{digits}e}".split("e+")
    factor = "" if mantissa == "1" else f"{mantissa}×"
    return f"{factor}10{exponent.lstrip('0').translate(_SUPERSCRIPTS)}"
