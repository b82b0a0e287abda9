"""The numbers of an evaluation, against scikit-learn, torchmetrics and a few done by hand."""

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from torchmetrics.functional.classification import multiclass_calibration_error

from lightning_ssl.evaluation.scores import (
    class_scores,
    confusion_matrix,
    least_certain,
    most_confident_mistakes,
    reliability,
    total_scores,
)


def rows(count: int = 200, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and classes, of which the last one never is and the first one is rare."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, classes - 1, (count,), generator=generator)
    target[(target == 0) & (torch.rand(count, generator=generator) < 0.8)] = 1
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), target] += 1
    return logits, target


def test_totals_are_those_of_scikit_learn() -> None:
    logits, target = rows()
    found, predicted = total_scores(logits, target, 2.0), logits.argmax(dim=1)
    probs = logits.double().softmax(dim=1)
    assert found["accuracy"] == reference.accuracy_score(target, predicted)
    assert found["balanced_accuracy"] == pytest.approx(
        reference.balanced_accuracy_score(target, predicted), abs=1e-12
    )
    assert found["macro_f1"] == pytest.approx(
        reference.f1_score(target, predicted, average="macro"), abs=1e-12
    )
    likelihood = reference.log_loss(target, probs, labels=range(5))
    assert found["nll"] == pytest.approx(likelihood, abs=1e-9)
    for name, divisor in (("ece", 1), ("ece_after", 2)):
        scaled = (logits.double() / divisor).softmax(dim=1)
        error = multiclass_calibration_error(scaled, target, num_classes=5, n_bins=15)
        assert found[name] == pytest.approx(float(error), abs=1e-6)
    assert total_scores(logits, target, None)["nll_after"] is None


def test_scores_of_classes_are_those_of_scikit_learn() -> None:
    logits, target = rows()
    predicted = logits.argmax(dim=1)
    matrix = confusion_matrix(predicted, target, 5)
    expected = reference.confusion_matrix(target, predicted, labels=range(5))
    np.testing.assert_array_equal(matrix, expected)
    scores = class_scores(matrix)
    values = reference.precision_recall_fscore_support(
        target, predicted, labels=range(5), zero_division=np.nan
    )
    for own, other in zip(
        (scores.precision, scores.accuracy, scores.f1, scores.images), values, strict=True
    ):
        np.testing.assert_allclose(own, other, atol=1e-12)


def test_bins_by_hand() -> None:
    probs = torch.tensor([[0.5, 0.5], [0.6, 0.4], [0.3, 0.7], [1.0, 0.0]], dtype=torch.float64)
    found = reliability(probs, torch.tensor([1, 0, 0, 0]), bins=4)  # right: no, yes, no, yes
    assert found.predictions.tolist() == [0, 0, 3, 1]  # one half belongs to the upper bin
    assert found.confidence[2:].tolist() == pytest.approx([0.6, 1.0])
    assert found.accuracy[2:].tolist() == pytest.approx([1 / 3, 1.0])
    assert found.confidence[:2].isnan().all()
    assert found.error == pytest.approx(0.75 * (0.6 - 1 / 3))


def test_images_to_look_at() -> None:
    probs = torch.tensor(
        [[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.05, 0.95, 0.0], [0.5, 0.45, 0.05], [0.4, 0.6, 0.0]]
    )
    target = torch.tensor([1, 1, 0, 2, 0])
    assert most_confident_mistakes(probs, target, 3).tolist() == [2, 0, 4]
    assert most_confident_mistakes(probs, probs.argmax(dim=1), 3).tolist() == []
    assert least_certain(probs, 2).tolist() == [3, 4]
