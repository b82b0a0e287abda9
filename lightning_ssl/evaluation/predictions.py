"""What a prediction says besides its class: how sure it is, and how far from all labels."""

from torch import Tensor

from lightning_ssl.evaluation.outliers import nearest_label_scores


def describe_predictions(
    probs: Tensor, features: Tensor, support: Tensor | None, count: int = 1
) -> dict[str, Tensor]:
    """The most probable classes of images, and two measures of doubt.

    Args:
        probs: Probabilities ``(B, C)``, rows sum to 1.
        features: Features of the images ``(B, F)``.
        support: Features of labelled images ``(L, F)``; None where they are not known.
        count: How many classes K.

    Returns:
        ``label`` ``(B, K)``, int64, and ``probability`` ``(B, K)``, falling; ``margin`` ``(B,)``,
        the difference of the two largest probabilities; and with ``support`` ``outlier_score``
        ``(B,)``, see :func:`~lightning_ssl.evaluation.outliers.nearest_label_scores`.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.25, 0.75]])
        >>> found = describe_predictions(probs, torch.ones(1, 3), None)
        >>> {name: value.tolist() for name, value in found.items()}
        {'label': [[1]], 'probability': [[0.75]], 'margin': [0.5]}
    """
    best, label = probs.topk(max(count, 2), dim=1)
    found = {
        "label": label[:, :count],
        "probability": best[:, :count],
        "margin": best[:, 0] - best[:, 1],
    }
    if support is not None:
        features = features.float()
        found["outlier_score"] = nearest_label_scores(features, support.to(features))
    return found
