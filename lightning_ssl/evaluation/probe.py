"""Linear classifiers on frozen features."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


class LinearProbe(NamedTuple):
    """A linear classifier.

    Attributes:
        weight: ``(C, F)``.
        bias: ``(C,)``.
    """

    weight: Tensor
    bias: Tensor

    def probabilities(self, features: Tensor) -> Tensor:
        """Probabilities of classes.

        Args:
            features: ``(N, F)``.

        Returns:
            ``(N, C)`` in the dtype of the weights, rows sum to 1.
        """
        # In parts, as the weights may be float64 and the features many.
        parts = [rows.to(self.weight) @ self.weight.T for rows in features.split(4096)]
        return (torch.cat(parts) + self.bias).softmax(dim=1)

    def accuracy(self, features: Tensor, target: Tensor) -> float:
        """Share of rows whose class has the largest logit.

        Args:
            features: ``(N, F)``.
            target: Classes ``(N,)``.
        """
        logits = features.to(self.weight) @ self.weight.T + self.bias
        return float((logits.argmax(dim=1) == target.to(logits.device)).float().mean())


def deal_out(target: Tensor, parts: int) -> Tensor:
    """Deal rows out to parts, those of each class in turn, so that each part has its share.

    Args:
        target: Classes ``(N,)``, int64, 0 at least.
        parts: Number of parts.

    Returns:
        Part of each row ``(N,)``, int64.

    Example:
        >>> deal_out(torch.tensor([0, 1, 0, 0, 1]), 2).tolist()
        [0, 0, 1, 0, 1]
    """
    of_class = torch.nn.functional.one_hot(target)
    return (of_class.cumsum(dim=0).gather(1, target[:, None])[:, 0] - 1) % parts


def logistic_regression(
    features: Tensor, target: Tensor, c: float = 1.0, *, standardize: bool = True
) -> LinearProbe:
    r"""Multinomial logistic regression to its optimum, on standardised features.

    .. math:: \min_{W, b} \; \tfrac{1}{2} \lVert W \rVert^2 + c \sum_n H(y_n, p_n)

    With two classes the penalty is on the difference of their rows, as usual. Where there are fewer
    rows than columns, the weights lie in the span of the rows and are looked for there alone.

    Args:
        features: ``(N, F)``; each column is brought to mean 0 and deviation 1 first, and the
            result is for the columns as they came.
        target: Classes ``(N,)``, int64; each of ``[0, C)`` occurs.
        c: Inverse strength of the penalty, above 0.
        standardize: Whether to divide by the deviation. Of a few rows it says little, and those
            columns weigh most that hardly ever differ.

    Returns:
        The classifier, float64.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import

    columns = features.double().cpu()
    mean, scale = columns.mean(dim=0), columns.std(dim=0, correction=0)
    scale = torch.where((scale > 0) & standardize, scale, 1)  # a constant column says nothing
    columns = (columns - mean) / scale
    # Turned, the rows are shorter; the penalty does not change with the axes.
    basis = torch.linalg.qr(columns.T).Q if len(columns) < columns.shape[1] else None
    model = LogisticRegression(C=c, tol=1e-5, max_iter=5000)
    model.fit((columns if basis is None else columns @ basis).numpy(), target.cpu().numpy())
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if basis is not None:
        weight = weight @ basis.T
    if len(weight) == 1:  # two classes: the logit of the second
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    weight = weight / scale
    return LinearProbe(weight, bias - weight @ mean)


def sgd_probe(
    features: Tensor,
    target: Tensor,
    num_classes: int,
    *,
    epochs: int = 70,
    batch_size: int = 512,
    lr: float = 0.1,
    generator: torch.Generator | None = None,
) -> LinearProbe:
    """Softmax regression by momentum SGD: the linear evaluation of self-supervised features.

    Momentum 0.9, no weight decay, a rate of ``lr`` per 256 images, a tenth of it after 3/7 of the
    epochs and a hundredth after 5/7, fresh permutations without the last incomplete batch. The
    start is zero.

    Reference: https://arxiv.org/abs/1901.09005: 70 epochs with drops at 30 and 50.

    Args:
        features: ``(N, F)``.
        target: Classes ``(N,)``, int64 in ``[0, num_classes)``.
        num_classes: Number of classes.
        epochs: Passes over the features.
        batch_size: Rows of a step; all of them, where there are fewer.
        lr: Learning rate for 256 rows.
        generator: CPU generator of the order.

    Returns:
        The classifier, on the device of ``features``.
    """
    size = min(batch_size, len(features))
    weight = features.new_zeros(num_classes, features.shape[1], requires_grad=True)
    bias = features.new_zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], lr=lr * size / 256, momentum=0.9)
    milestones = [round(epochs * 3 / 7), round(epochs * 5 / 7)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
    for _ in range(epochs):
        order = torch.randperm(len(features), generator=generator).to(features.device)
        for rows in order[: len(order) // size * size].split(size):
            logits = features[rows] @ weight.T + bias
            gradients = torch.autograd.grad(cross_entropy(logits, target[rows]), (weight, bias))
            weight.grad, bias.grad = gradients
            optimizer.step()
        schedule.step()
    return LinearProbe(weight.detach(), bias.detach())
