"""Names of classes: their order, and marks that mean that an image has none."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from pytorch_lightning.utilities import rank_zero_warn

from lightning_ssl.data.sources.base import name_some

_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")

# What pandas, numpy, Excel and R write for a value that is missing. Negative numbers are such marks
# too: -1 is our own in arrays, -9 and -99 are those of surveys.
_MARKS = {
    *("nan", "+nan", "-nan", "nat", "na", "<na>", "n/a", "#n/a", "#na", "#n/a n/a", "null"),
    *("1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan", "inf", "-inf", "+inf", "infinity", "-infinity"),
    *("#null!", "#ref!", "#value!", "#div/0!", "#name?", "#num!"),
}
# Likewise, or a class: `none` of the others, `unknown`.
_WORDS = {
    *("none", "nil", "?", "??", "???", "-", "--", "---", ".", "_", "*"),
    *("unknown", "unlabeled", "unlabelled", "un-labeled", "un-labelled", "no label", "no_label"),
    *("nolabel", "not labeled", "not labelled", "unset", "undefined", "missing", "tbd", "todo"),
}


# Minus signs and dashes that spreadsheets and word processors put in the place of a hyphen.
_MINUS = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212\ufe58\ufe63\uff0d"), "-")


def sort_classes(names: Iterable[str]) -> list[str]:
    """Sort class names: as numbers where all are numbers, else by code point, alike everywhere.

    Args:
        names: The names, each once.

    Example:
        >>> sort_classes(["10", "9", "-1"]), sort_classes(["b10", "b9"])
        (['-1', '9', '10'], ['b10', 'b9'])
    """
    listed = list(names)
    numbers = all(_NUMBER.fullmatch(name) for name in listed)
    return sorted(listed, key=lambda name: (float(name) if numbers else 0, name))


def check_marks(found: Mapping[str, str], classes: Sequence[str] | None, rule: str) -> None:
    """Refuse classes whose name says that an image has no class; warn of names that look alike.

    Args:
        found: Class name to the place where it was met first, for messages.
        classes: Class names that the user gave, whatever they look like; None for none.
        rule: How an image without a label is given, for messages.

    Raises:
        ValueError: If a name is such a mark, and is none of ``classes``.
    """
    if classes is None:
        warn_of_twins(found)
    unsure = []
    for name, place in found.items():
        if name in (classes or ()):
            continue
        low = _plainly(name)
        if low in _MARKS or (_NUMBER.fullmatch(low) and low.startswith("-")):
            raise ValueError(
                f"{place}: '{name}' looks like a mark for a label that is not known. {rule}; if it "
                "is a class, list all classes in `data.classes` (--data.classes)."
            )
        if low in _WORDS:
            unsure.append(f"'{name}' ({place})")
    if unsure:
        rank_zero_warn(
            f"Taken for the name of a class: {name_some(unsure)}. {rule}; to be sure, list the "
            "classes in `data.classes` (--data.classes)."
        )


def warn_of_twins(names: Iterable[str]) -> None:
    """Warn of classes whose names differ in their writing alone, and may be meant as one.

    Args:
        names: The names, each once.
    """
    groups: dict[str | float, list[str]] = {}
    for name in sort_classes(names):
        key = _plainly(name)
        groups.setdefault(float(key) if _NUMBER.fullmatch(key) else key, []).append(name)
    twins = [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]
    if twins:
        rank_zero_warn(
            f"Taken for different classes: {name_some(twins)}. They differ in case, spaces, the "
            "form of a number or signs that look alike; if they are one class, name it in one way."
        )


def _plainly(name: str) -> str:
    """A name without what people do not see in it: form, case, spaces, signs without width."""
    text = unicodedata.normalize("NFKC", name).translate(_MINUS).casefold()
    seen = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")
    return " ".join(seen.split())


def check_classes(found: Sequence[str], expected: Sequence[str], where: str) -> None:
    """Check that two lists of class names hold the same names.

    Args:
        found: Class names that were found.
        expected: Class names that had to be there.
        where: Where they were found, for the message.

    Raises:
        ValueError: If a name is twice in ``expected``, or the lists differ; it names who differs.
    """
    if len(set(expected)) != len(expected):
        twice = sorted({name for name in expected if list(expected).count(name) > 1})
        raise ValueError(f"`classes` (--data.classes) names a class twice: {name_some(twice)}.")
    missing, extra = set(expected) - set(found), set(found) - set(expected)
    if missing or extra:
        raise ValueError(
            f"The classes of {where} differ from the expected {len(expected)}: "
            f"missing: {name_some(sort_classes(missing)) or 'none'}; "
            f"unknown: {name_some(sort_classes(extra)) or 'none'}."
        )
