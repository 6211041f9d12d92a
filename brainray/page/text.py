"""Turns values into the text of the page: cut, without invisible characters, numbers as people read them.

The template escapes what comes from here, as it does everything.
"""

import unicodedata
from collections.abc import Sequence
from datetime import datetime
from urllib.parse import unquote

from brainray.evaluation.metrics import IntervalEstimate
from brainray.evaluation.rounding import in_percent, percent_ends, rounded

NAME_CHARS, DETAIL_CHARS = 80, 200  # longest name and longest error detail that is shown
_UNDEFINED = "–"
_PERCENT = "\N{NO-BREAK SPACE}%"
# Control characters, marks that turn or hide text (bidirectional overrides, zero widths), and halves of characters.
_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def visible(text: str) -> str:
    """The text with characters that cannot be seen as escapes, such as \\u202e."""
    return "".join(_escape(char) if unicodedata.category(char) in _INVISIBLE else char for char in text)


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def cut(value: object, most: int = NAME_CHARS) -> str:
    """The text, visible, with its middle left out where it is longer than `most` characters."""
    text = "" if value is None else str(value)
    shown = visible(text if len(text) <= most else text[: most // 2] + text[len(text) - most :])
    if len(shown) <= most:
        return shown
    head = (most - 1) // 3
    return f"{shown[:head]}…{shown[len(shown) - (most - 1 - head) :]}"


def group_name(group: str | None, levels: int) -> str | None:
    """The group for people: the names of its levels, which `inputs.image_files.GroupLevels` has joined."""
    if group is None or levels < 2:
        return group
    return " / ".join(unquote(part) or "(none)" for part in group.split("/"))


def count(value: int | None) -> str:
    """1234 -> 1,234."""
    return _UNDEFINED if value is None else f"{value:,}"


def percent(share: float | None, digits: int = 1) -> str:
    """0.965 -> 96.5 %. A share just below one is not rounded up to it, nor one just above zero down."""
    return _UNDEFINED if share is None or share != share else f"{in_percent(share, digits)}{_PERCENT}"


def between(low: float | None, high: float | None) -> str:
    """A 95 % interval of a share: 95.7 to 97.1 %."""
    if low is None or high is None or low != low:
        return ""
    return f"{percent_ends(low, high)}{_PERCENT}"


def decimal(value: float | None, digits: int = 3) -> str:
    """0.9649 -> 0.965, rounded as `percent`."""
    return _UNDEFINED if value is None or value != value else rounded(value, digits)


def estimate(value: IntervalEstimate | None) -> str:
    """A share with its interval."""
    return _UNDEFINED if value is None else f"{percent(value.value)} ({between(value.low, value.high)})"


def interval_text(value: IntervalEstimate) -> str:
    return between(value.low, value.high)


def when(iso: str | None) -> str:
    """A time of a run: 28 November 2026, 22:30 UTC."""
    return f"{datetime.fromisoformat(iso):%-d %B %Y, %H:%M} UTC" if iso else "at no time"


def duration(seconds: float) -> str:
    """5400 -> 1 h 30 min."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{max(seconds, 0.1):.1f} s" if whole < 10 else f"{whole} s"


def rate(images_per_s: float | None) -> str:
    if images_per_s is None:
        return _UNDEFINED
    return f"{images_per_s:,.0f}" if images_per_s >= 10 else f"{images_per_s:.1f}"


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def plural(number: int, one: str, many: str | None = None) -> str:
    """1 -> 1 image; 1234 -> 1,234 images."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
