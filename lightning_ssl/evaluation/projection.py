"""Features on a plane: principal components, and their scatter plot by class."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_ssl.evaluation.figures import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NAMES = 20  # more colours could not be told apart, nor would the names fit


def pca(features: Tensor, components: int = 2) -> tuple[Tensor, Tensor]:
    r"""Coordinates along the directions of largest variance.

    .. math:: Y = (X - \bar{X})\,V, \quad \mathrm{Cov}(X)\, v_k = \lambda_k v_k, \quad
        \lambda_1 \ge \lambda_2 \ge \dots

    All eigenvalues are computed, in float64 and without randomness. In every direction
    :math:`v_k` the largest entry by magnitude is positive.

    Args:
        features: Features ``(N, F)``, any finite real.
        components: Number of directions, at most N and F.

    Returns:
        Coordinates ``(N, components)``, float64, in the features' unit, and the share of the
        variance along each direction ``(components,)``, in [0, 1]; 0 where all rows are equal.

    Raises:
        ValueError: If there are too few rows or columns, or one is not finite.

    Example:
        >>> points, explained = pca(torch.tensor([[0.0, 3.0], [4.0, 3.0], [8.0, 3.0]]))
        >>> points[:, 0].tolist(), explained.tolist()
        ([-4.0, 0.0, 4.0], [1.0, 0.0])
    """
    if features.ndim != 2 or min(features.shape) < components:
        raise ValueError(
            f"`features` must have at least {components} rows and columns, got the shape "
            f"{tuple(features.shape)}."
        )
    if not features.isfinite().all():
        raise ValueError("`features` must be finite, got infinite values or NaN.")
    from sklearn.decomposition import PCA

    model = PCA(components, svd_solver="covariance_eigh")
    values = features.detach().cpu().double()
    if not (values != values[0]).any():
        return values.new_zeros(len(values), components), values.new_zeros(components)
    points = torch.from_numpy(model.fit_transform(values.numpy()))
    return points, torch.from_numpy(model.explained_variance_ratio_)


def draw_projection(
    features: Tensor, targets: Tensor, classes: Sequence[str], path: Path, title: str
) -> "Figure":
    """Draw the first two principal components of features, coloured by class.

    Args:
        features: Features ``(N, F)``, any finite real; N and F at least 2.
        targets: Classes ``(N,)``, int64, -1 (drawn gray) where unknown.
        classes: Class names in the order of the class numbers; up to 20 are listed.
        path: The PNG file.
        title: What the points are.

    Returns:
        The figure, for loggers.

    Raises:
        ValueError: If the features have no two principal components.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    points, explained = pca(features)
    listed = len(classes) <= _MOST_NAMES
    colormap = colormaps[("tab10" if len(classes) <= 10 else "tab20") if listed else "turbo"]
    # Of the two qualitative maps a number chooses a colour, of the other a fraction.
    colors = [colormap(k if listed else k / (len(classes) - 1)) for k in range(len(classes))]
    colors.append((0.8, 0.8, 0.8, 1.0))  # -1
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes: Any = figure.subplots()
    # In one call and not class by class, which would hide the first classes under the last.
    order = torch.cat([torch.nonzero(targets < 0)[:, 0], torch.nonzero(targets >= 0)[:, 0]])
    axes.scatter(
        *points[order].T.numpy(),
        c=[colors[k] for k in targets[order].tolist()],
        s=14,
        alpha=0.8,
        linewidths=0,
    )
    axes.set_xlabel(f"component 1 ({explained[0]:.0%} of the variance)")
    axes.set_ylabel(f"component 2 ({explained[1]:.0%} of the variance)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    shown = list(zip(classes, colors, strict=False)) if listed else []
    if (targets < 0).any():
        shown.append(("unlabeled", colors[-1]))
    marks = [Line2D([], [], color=c, marker="o", linestyle="", label=name) for name, c in shown]
    if marks:
        figure.legend(handles=marks, loc="outside right upper", frameon=False)
    save_figure(figure, path, dpi=120)
    return figure


def class_names(targets: Tensor, classes: Sequence[str]) -> list[str]:
    """Name of the class of each image.

    Args:
        targets: Classes ``(N,)``, int64, -1 where unknown.
        classes: Class names in the order of the class numbers.

    Returns:
        The names, ``unlabeled`` where the class is unknown.

    Example:
        >>> class_names(torch.tensor([1, -1]), ("cat", "dog"))
        ['dog', 'unlabeled']
    """
    return [classes[target] if target >= 0 else "unlabeled" for target in targets.tolist()]
