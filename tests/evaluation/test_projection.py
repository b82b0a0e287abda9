"""Principal components against NumPy's decomposition, and what a plot shows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from torch import Tensor

from lightning_ssl.evaluation.projection import draw_projection, pca


def features(rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    values = torch.randn(rows, columns, generator=generator)
    return values * torch.linspace(3, 0.1, columns) + 5


@pytest.mark.parametrize(("rows", "columns"), [(50, 7), (7, 50), (2, 2), (5, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_components_are_those_of_the_singular_values(
    rows: int, columns: int, dtype: torch.dtype
) -> None:
    x = features(rows, columns).to(dtype)
    points, explained = pca(x)
    exact = x.double().numpy()
    exact = exact - exact.mean(axis=0)
    _, singular, directions = np.linalg.svd(exact, full_matrices=False)
    for k, direction in enumerate(directions[:2]):
        if singular[k] < 1e-9:  # two rows lie on a line, whose second direction is any
            continue
        positive = direction * np.sign(direction[np.abs(direction).argmax()])
        np.testing.assert_allclose(points[:, k].numpy(), exact @ positive, atol=1e-9)
    assert explained.tolist() == pytest.approx(
        (singular[:2] ** 2 / (singular**2).sum()).tolist(), abs=1e-9
    )


def test_the_sign_follows_from_the_directions_alone() -> None:
    x = features(40, 6)
    points, explained = pca(x)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(pca(x[order])[0], points[order], rtol=0, atol=1e-9)
    # Mirrored features have the same directions.
    torch.testing.assert_close(pca(-x)[0], -points, rtol=0, atol=1e-9)
    again = pca(x)
    assert torch.equal(again[0], points)
    assert torch.equal(again[1], explained)


def test_more_components() -> None:
    x = features(40, 6)
    points, explained = pca(x, components=6)
    centred = x.double() - x.double().mean(dim=0)
    torch.testing.assert_close(points @ points.T, centred @ centred.T)  # a rotation
    assert explained.sum().item() == pytest.approx(1)
    torch.testing.assert_close(points[:, :2], pca(x)[0])


def test_features_that_are_all_equal() -> None:
    points, explained = pca(torch.full((5, 3), 0.1))
    assert torch.equal(points, torch.zeros(5, 2, dtype=torch.float64))
    assert explained.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(1, 5), r"at least 2 rows and columns, got the shape \(1, 5\)"),
        (torch.zeros(5, 1), r"at least 2 rows and columns, got the shape \(5, 1\)"),
        (torch.zeros(5), r"got the shape \(5,\)"),
        (torch.tensor([[1.0, float("nan")], [0.0, 1.0]]), "must be finite"),
        (torch.tensor([[1.0, float("inf")], [0.0, 1.0]]), "must be finite"),
    ],
)
def test_features_without_components(bad: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pca(bad)


@pytest.mark.parametrize("num_classes", [2, 10, 11, 20])
def test_every_point_has_the_colour_of_its_class(num_classes: int, tmp_path: Path) -> None:
    x = features(60, 4)
    targets = torch.arange(60) % (num_classes + 1) - 1
    classes = [f"class {k}" for k in range(num_classes)]
    figure = draw_projection(x, targets, classes, tmp_path / "a.png", "60 images")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    (axes,) = figure.axes
    (scatter,) = axes.collections
    (legend,) = figure.legends
    colors = {
        text.get_text(): to_rgba(mark.get_color(), 0.8)
        for text, mark in zip(legend.get_texts(), legend.legend_handles, strict=True)
    }
    assert list(colors) == [*classes, "unlabeled"]
    assert len(set(colors.values())) == num_classes + 1
    red, green, blue, _ = colors["unlabeled"]
    assert red == green == blue
    drawn = {
        tuple(point): tuple(color)
        for point, color in zip(
            np.asarray(scatter.get_offsets()).tolist(),
            scatter.get_facecolors().tolist(),
            strict=True,
        )
    }
    points, explained = pca(x)
    assert len(drawn) == 60
    for point, target in zip(points.tolist(), targets.tolist(), strict=True):
        name = classes[target] if target >= 0 else "unlabeled"
        assert drawn[tuple(point)] == pytest.approx(colors[name])
    # Unlabelled points lie below the others.
    first = scatter.get_facecolors()[: int((targets < 0).sum())]
    assert all(tuple(color) == pytest.approx(colors["unlabeled"]) for color in first)
    assert f"({100 * explained[0]:.0f}% of" in axes.get_xlabel()
    assert f"({100 * explained[1]:.0f}% of" in axes.get_ylabel()
    assert axes.get_title() == "60 images"


def test_many_classes_are_coloured_but_not_listed(tmp_path: Path) -> None:
    targets = torch.arange(60) % 30
    classes = [str(k) for k in range(30)]
    figure = draw_projection(features(60, 4), targets, classes, tmp_path / "a.png", "")
    assert figure.legends == []
    (scatter,) = figure.axes[0].collections
    colors = [tuple(color) for color in scatter.get_facecolors().tolist()]
    assert len(set(colors)) == 30
    assert colors[:30] == colors[30:]
