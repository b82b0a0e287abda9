"""What a reported error becomes."""

from dataclasses import dataclass
from typing import Any

import pytest
from torch._utils import ExceptionWrapper

from lightning_ssl.cli.errors import explain


@dataclass(frozen=True)
class Speed:
    rate: float = 0.1
    decay: float = 0.0


class Parent:
    def __init__(self, speed: Speed = Speed(), limit: "Speed | None" = None) -> None:
        pass


class Child(Parent):
    def __init__(self, threshold: float = 0.5, extra: Speed | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)


CLASSES = {"my.Child": Child}
FIELDS = "Allowed: speed.rate, speed.decay."


@pytest.mark.parametrize(
    ("report", "hint"),
    [
        ("Option 'treshold' is not accepted", "Did you mean 'threshold'? Allowed: threshold, "),
        ("Option 'zzz' is not accepted", ". Allowed: threshold, extra, speed, limit."),
        ("unrecognized arguments: --treshold=1", "Did you mean 'threshold'?"),
        ("unrecognized arguments: --speed.ratee=1", f"Did you mean 'speed.rate'? {FIELDS}"),
        ("unrecognized arguments: --speed.zzzzzzzzz=1", f". {FIELDS}"),
        ("unrecognized arguments: --extra.ratee=1", "Did you mean 'extra.rate'?"),
        ("unrecognized arguments: --sped.rate=1", "Did you mean 'speed'?"),
        ("Group 'speed' does not accept option 'decai'", f"Did you mean 'speed.decay'? {FIELDS}"),
    ],
)
def test_a_misspelled_option(report: str, hint: str) -> None:
    said = explain(ValueError(f"Problem with given class_path 'my.Child': {report}"), CLASSES)
    assert report in said
    assert hint in said


@pytest.mark.parametrize(
    "message",
    [
        "something else",
        "Problem with given class_path 'my.Other': Option 'treshold' is not accepted",
        # No dataclass: nothing is known of what is inside.
        "Problem with given class_path 'my.Child': unrecognized arguments: --threshold.a=1",
    ],
)
def test_nothing_to_suggest(message: str) -> None:
    assert explain(ValueError(message), CLASSES) == message


@pytest.mark.parametrize("message", ["Cannot read the image 'a: b.jpg': broken.", "two\nlines: x"])
def test_an_error_of_a_worker(message: str) -> None:
    try:
        try:
            raise OSError("inner")
        except OSError as error:
            raise ValueError(message) from error
    except ValueError:
        report = ExceptionWrapper(where="in DataLoader worker process 0")  # what a loader sends
    with pytest.raises(ValueError, match="Caught ValueError in DataLoader worker") as caught:
        report.reraise()
    assert explain(caught.value, {}) == message
