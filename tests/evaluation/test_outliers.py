"""Scores of outliers against loops."""

import numpy as np
import pytest
import torch

from lightning_ssl.evaluation import neighbors
from lightning_ssl.evaluation.outliers import nearest_label_scores, outlier_threshold


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "_QUERIES", 3)
    monkeypatch.setattr(neighbors, "_SUPPORT", 4)


def draw(seed: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=generator, dtype=torch.float64) * 3


def test_the_score_is_the_largest_cosine() -> None:
    features, support = draw(0, 11), draw(1, 9)
    wanted = [max(float(u @ x / u.norm() / x.norm()) for x in support) for u in features]
    scores = nearest_label_scores(features, support)
    assert scores.tolist() == pytest.approx(wanted, abs=1e-12)
    longer = nearest_label_scores(features * torch.arange(1, 12)[:, None], support / 7)
    torch.testing.assert_close(longer, scores)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
def test_the_threshold_leaves_each_label_out(share: float) -> None:
    support = draw(2, 9)
    scores = []
    for i, u in enumerate(support):
        others = [x for j, x in enumerate(support) if j != i]
        scores.append(max(float(u @ x / u.norm() / x.norm()) for x in others))
    assert outlier_threshold(support, share) == pytest.approx(np.quantile(scores, share))
    with pytest.raises(ValueError, match="`support` must have two rows at least, got 1"):
        outlier_threshold(support[:1])
