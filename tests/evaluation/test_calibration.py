"""The temperature against scipy's minimum of the negative log likelihood."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from lightning_ssl.evaluation.calibration import fit_temperature


def drawn(scale: float, rows: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are ``scale`` times too large, and classes drawn from the honest ones."""
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(rows, 5)) * 2
    target = [rng.choice(5, p=row) for row in softmax(honest, axis=1)]
    return torch.tensor(honest * scale), torch.tensor(target)


@pytest.mark.parametrize("scale", [0.2, 1.0, 4.0])
def test_minimum_of_the_negative_log_likelihood(scale: float) -> None:
    logits, target = drawn(scale)

    def loss(temperature: float) -> float:
        rows = log_softmax(logits.numpy() / temperature, axis=1)
        return -rows[np.arange(len(rows)), target.numpy()].mean()

    expected = minimize_scalar(loss, bounds=(0.01, 10), method="bounded", options={"xatol": 1e-9})
    assert fit_temperature(logits, target) == pytest.approx(expected.x, rel=1e-5)
    assert fit_temperature(logits, target) == pytest.approx(scale, rel=0.15)
    assert fit_temperature(logits + 7, target) == pytest.approx(expected.x, rel=1e-5)


def test_where_all_are_right_it_is_as_sure_as_so_few_allow() -> None:
    logits, _ = drawn(1.0, rows=8)
    temperature = fit_temperature(logits.float(), logits.argmax(dim=1))
    confidence = softmax(logits.numpy() / temperature, axis=1).max(axis=1).mean()
    assert confidence == pytest.approx(1 - 1 / 16, abs=1e-6)


def test_bounds() -> None:
    wrong = torch.tensor([[1e4, 0.0], [1e4, 0.0]])
    assert fit_temperature(wrong, torch.tensor([1, 1])) == pytest.approx(10)


@pytest.mark.parametrize(
    ("logits", "told"),
    [(torch.zeros(0, 3), "0 finite of 0"), (torch.tensor([[0.0, torch.inf]]), "0 finite of 1")],
)
def test_nothing_to_fit(logits: torch.Tensor, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        fit_temperature(logits, torch.zeros(len(logits), dtype=torch.int64))
