"""Counts skipped files by reason. Bounds the number of reasons: files named by numbers or hashes have a suffix each."""

from collections import Counter
from collections.abc import Sequence

_SHOWN = 10  # suffixes that are counted each by itself in the result
_SHOWN_OTHERS = 3  # examples of the others
_REMEMBERED = 10_000  # different suffixes that are counted at most
_SUFFIX = "suffix "
_OTHER = "other suffix"


def count_skipped(skipped: Counter[str], reason: str) -> None:
    """Count a file. A suffix beyond the first 10,000 different ones is counted among the others."""
    if reason not in skipped and len(skipped) >= _REMEMBERED and reason.startswith(_SUFFIX):
        reason = _OTHER
    skipped[reason] += 1


def passed_over(skipped: Counter[str], notes: Sequence[str], source: str) -> str:
    """The end of a message that no image was found: what was found in its place, and what is noted of it.

    `source` begins the message and each note: the option and its value.
    """
    counts = ", ".join(f"{count:,} {reason}" for reason, count in few_reasons(skipped).items())
    return "".join(
        [f" (passed over: {counts})" if counts else "", *(f"; {note.removeprefix(f'{source}: ')}" for note in notes)]
    )


def few_reasons(skipped: Counter[str]) -> dict[str, int]:
    """The counts sorted by reason. The ten most frequent suffixes have a count each, all others one with examples.

    The same files in the same order give the same counts.
    """
    suffixes = sorted((name for name in skipped if name.startswith(_SUFFIX)), key=lambda name: (-skipped[name], name))
    others = suffixes[_SHOWN:]
    together = {*others, _OTHER}
    counts = {reason: count for reason, count in skipped.items() if reason not in together}
    if others:
        examples = ", ".join(name.removeprefix(_SUFFIX) for name in others[:_SHOWN_OTHERS])
        counts[f"{_OTHER} ({examples} ...)"] = sum(skipped[name] for name in others) + skipped[_OTHER]
    return dict(sorted(counts.items()))
