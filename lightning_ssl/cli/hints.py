"""What a misspelt word may have meant."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Name the nearest known word, for the end of a message; empty where none is near.

    Args:
        word: What was typed.
        known: The words that there are.
        prefix: What to put before the nearest.

    Example:
        >>> did_you_mean("FixMach", ["FixMatch", "FlexMatch"])
        " Did you mean 'FixMatch'?"
    """
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f" Did you mean '{prefix}{by_lower[near[0]]}'?" if near else ""
