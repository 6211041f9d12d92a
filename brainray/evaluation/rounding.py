"""Writes figures with a few digits so that none is rounded up to all, or down to nothing."""


def rounded(value: float, digits: int, *, of: float = 1.0) -> str:
    """0.9649 -> 0.965. A share just below the whole, `of`, is no whole one, and one just above 0 is not nothing."""
    step: float = 10.0**-digits
    if 0 < value < step / 2:
        return f"< {step:.{digits}f}"
    if of - step / 2 < value < of:
        return f"> {of - step:.{digits}f}"
    return f"{value:.{digits}f}"


def with_ends(value: float, low: float, high: float, *, digits: int = 4) -> str:
    """A figure and its interval: 0.9649 (0.9571 to 0.9713)."""
    return f"{rounded(value, digits)} ({rounded(low, digits)} to {rounded(high, digits)})"


def in_percent(share: float, digits: int = 1) -> str:
    """0.965 -> 96.5"""
    return rounded(100 * share, digits, of=100)


def percent_ends(low: float, high: float) -> str:
    """The ends of an interval of a share in percent: 95.7 to 97.1."""
    return f"{in_percent(low)} to {in_percent(high)}"
