"""Temperature scaling: probabilities that say how often the predicted class is right."""

from torch import Tensor

from lightning_ssl.evaluation.head_start import honest_scale

_TEMPERATURES = (0.01, 10.0)


def fit_temperature(logits: Tensor, target: Tensor) -> float:
    r"""Temperature by which logits are divided for an honest confidence.

    It minimises the negative log likelihood of the classes,

    .. math:: T = \arg\min_T \; -\frac{1}{N} \sum_n \log \operatorname{softmax}(z_n / T)_{y_n},

    in [0.01, 10]. The likelihood is concave in :math:`1/T`, so that the zero of its slope is found
    by halving. Where all rows are right it would grow without end; there the mean confidence
    becomes 1 - 1 / (2 N), as N rows cannot tell more.

    Reference: Guo et al., 2017, https://arxiv.org/abs/1706.04599, sec. 4.2.

    Args:
        logits: Of rows that the classifier was not trained on, ``(N, C)``, finite.
        target: Their classes ``(N,)``, int64.

    Returns:
        The temperature; computed in float64 on the CPU, so that it is the same everywhere.

    Raises:
        ValueError: If there is no row, or a logit that is not finite.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[4.0, 0.0]] * 4)
        >>> round(fit_temperature(logits, torch.tensor([0, 0, 0, 1])), 4)  # 4 / ln 3
        3.641
    """
    logits, target = logits.double().cpu(), target.cpu()
    if not len(logits) or not logits.isfinite().all():
        raise ValueError(
            "`logits` must be at least one row of finite values, got "
            f"{int(logits.isfinite().all(dim=1).sum())} finite of {len(logits)} rows."
        )
    if (logits.argmax(dim=1) == target).all():
        return 1 / honest_scale(logits, target)
    own = logits.gather(1, target[:, None]).mean()
    low, high = _TEMPERATURES
    for _ in range(60):
        middle = (low * high) ** 0.5
        expected = ((logits / middle).softmax(dim=1) * logits).sum(dim=1).mean()
        low, high = (middle, high) if expected > own else (low, middle)
    return low
