"""CReST's sampling of pseudo-labels: rates, order, and what a run then trains on."""

import math
from fractions import Fraction

import pytest
import torch

from lightning_ssl.data import SSLDataModule, from_arrays
from lightning_ssl.data.pseudo.sampling import choose_confident, sampling_rates
from lightning_ssl.data.pseudo.table import PseudoTable, write_table

N = 240
CLASSES = list("abcd")
TRUE = torch.arange(N) % 4
PIXELS = torch.zeros(N, 3, 8, 8, dtype=torch.uint8)


def rates_by_loop(counts: list[int], alpha: float) -> list[float]:
    """Rank the classes by selection, and give each the ratio of its mirror image."""
    left, ranked = dict(enumerate(counts)), []
    while left:
        largest = max(left.values())
        label = min(c for c, n in left.items() if n == largest)
        ranked.append(label)
        del left[label]
    rates = [0.0] * len(counts)
    for place, label in enumerate(ranked):
        mirror = ranked[len(ranked) - 1 - place]
        rates[label] = math.pow(Fraction(counts[mirror], counts[ranked[0]]), alpha)
    return rates


def chosen_by_loop(labels: list[int], probabilities: list[float], rates: list[float]) -> list[bool]:
    chosen = [False] * len(labels)
    for label, rate in enumerate(rates):
        members = [i for i, value in enumerate(labels) if value == label]
        for _ in range(math.floor(len(members) * rate + 1e-6)):
            best = max(members, key=lambda i: (probabilities[i], -i))
            members.remove(best)
            chosen[best] = True
    return chosen


class TestRates:
    def test_long_tail_of_the_paper(self):
        """At ratio 100 the largest class is taken at a hundredth to the power 1/3."""
        counts = torch.tensor([500, 299, 179, 107, 64, 38, 23, 13, 8, 5])
        rates = sampling_rates(counts, 1 / 3)
        assert rates.dtype == torch.float64
        assert rates[0].item() == pytest.approx(0.01 ** (1 / 3), rel=1e-12)
        assert rates[9].item() == 1
        assert rates[1].item() == pytest.approx((8 / 500) ** (1 / 3), rel=1e-12)
        assert (rates.diff() > 0).all()

    @pytest.mark.parametrize("alpha", [0.0, 0.2, 1 / 3, 1.0, 2.5])
    def test_by_loop(self, alpha):
        generator = torch.Generator().manual_seed(0)
        for _ in range(50):
            classes = int(torch.randint(2, 12, (), generator=generator))
            counts = torch.randint(1, 9, (classes,), generator=generator)  # many equal ones
            found = sampling_rates(counts, alpha).tolist()
            assert found == pytest.approx(rates_by_loop(counts.tolist(), alpha), rel=1e-12)

    def test_balanced_classes_are_taken_whole(self):
        assert sampling_rates(torch.tensor([7, 7, 7]), 0.5).tolist() == [1, 1, 1]


class TestChoice:
    def test_by_loop(self):
        generator = torch.Generator().manual_seed(0)
        for size in range(60):
            target = torch.randint(0, 4, (size,), generator=generator)
            probability = torch.randint(0, 6, (size,), generator=generator).double() / 5  # ties
            rates = torch.rand(4, generator=generator, dtype=torch.float64)
            rates[size % 4] = 1
            expected = chosen_by_loop(target.tolist(), probability.tolist(), rates.tolist())
            assert choose_confident(target, probability, rates).tolist() == expected

    def test_no_rounding_error_below_an_integer(self):
        rates = sampling_rates(torch.tensor([1000, 1]), 1 / 3)  # 0.09999999999999999
        target = torch.zeros(10, dtype=torch.int64)
        assert choose_confident(target, torch.linspace(0, 1, 10), rates).tolist() == [False] * 9 + [
            True
        ]


def make(**options) -> SSLDataModule:
    source = from_arrays(PIXELS, TRUE, classes=CLASSES)
    tail = {"labels_per_class": 16, "imbalance_ratio": 8, "seed": 0, "val_per_class": 1}
    return SSLDataModule.from_source(source, **(tail | options))


SPLIT = make().split


@pytest.fixture
def table() -> PseudoTable:
    generator = torch.Generator().manual_seed(3)
    given = torch.full((N,), -1)
    given[SPLIT.labeled] = TRUE[SPLIT.labeled]
    values = {"given": given}
    for column in ("label", "averaged_label"):
        values[column] = torch.randint(0, 4, (N,), generator=generator)
        probability = torch.rand(N, generator=generator, dtype=torch.float64)
        values[column.replace("label", "probability")] = probability.mul(1e6).round().div(1e6)
    found = PseudoTable(**values)
    write_table("t.csv", found, str, CLASSES)
    return found


class TestData:
    @pytest.mark.parametrize("column", ["label", "averaged_label"])
    @pytest.mark.parametrize("threshold", [0.0, 0.6])
    def test_by_loop(self, table, column, threshold):
        data = make(
            pseudo_labels="t.csv",
            pseudo_alpha=1 / 3,
            pseudo_column=column,
            pseudo_threshold=threshold,
        )
        assert make().class_counts == [15, 7, 3, 1]  # one of each is held out
        taken = {*SPLIT.labeled.tolist(), *SPLIT.val.tolist()}
        probability = getattr(table, column.replace("label", "probability"))
        rows = [i for i in range(N) if i not in taken and probability[i] >= threshold]
        labels = getattr(table, column)[rows].tolist()
        rates = [(n / 15) ** (1 / 3) for n in (1, 3, 7, 15)]
        chosen = chosen_by_loop(labels, probability[rows].tolist(), rates)
        expected = {row: label for row, label, keep in zip(rows, labels, chosen, strict=True)
                    if keep}  # fmt: skip
        assert data.pseudo.rows.tolist() == list(expected)
        assert data.pseudo.target.tolist() == list(expected.values())
        # The rarest class is taken whole, the others in part.
        for label in range(4):
            share = list(expected.values()).count(label) / labels.count(label)
            assert share == 1 if label == 3 else 0.2 < share < 0.9
        assert data.class_counts == [
            n + list(expected.values()).count(c) for c, n in enumerate((15, 7, 3, 1))
        ]

    def test_zero_takes_all(self, table):
        whole, same = make(pseudo_labels="t.csv"), make(pseudo_labels="t.csv", pseudo_alpha=0.0)
        assert torch.equal(whole.pseudo.rows, same.pseudo.rows)
        assert len(whole.pseudo.rows) == N - len(SPLIT.labeled) - len(SPLIT.val)

    def test_another_exponent_is_another_choice(self, table):
        digests = {make(pseudo_labels="t.csv", pseudo_alpha=a).state_dict()["pseudo_labels"]
                   for a in (0.0, 0.3, 1.0)}  # fmt: skip
        assert len(digests) == 3

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"pseudo_alpha": 0.5}, "`pseudo_alpha` need a table, `pseudo_labels`"),
            ({"pseudo_labels": "t.csv", "pseudo_alpha": -1.0}, "must be at least 0, got -1.0"),
            ({"pseudo_labels": "t.csv", "pseudo_alpha": float("nan")}, "at least 0, got nan"),
            (
                {"pseudo_labels": "t.csv", "pseudo_alpha": 9.0, "pseudo_threshold": 0.9999},
                r"holds no pseudo-label .* lower `pseudo_threshold` .* or `pseudo_alpha`",
            ),
        ],
    )
    def test_bad_options(self, table, options, message):
        with pytest.raises(ValueError, match=message):
            _ = make(**options).labeled
