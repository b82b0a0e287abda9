"""Soft nearest neighbours as a classifier and as a metric, without a matrix of all similarities."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_ssl.checks import check_temperature
from lightning_ssl.losses import cosine, promote

_QUERIES, _SUPPORT = 1024, 4096  # rows of a chunk; 16 MiB of similarities at a time


def classify_by_neighbors(
    queries: Tensor, support: Tensor, target: Tensor, num_classes: int, *, temperature: float = 0.1
) -> Tensor:
    r"""Probabilities of :func:`lightning_ssl.losses.soft_nearest_neighbors`, for large supports.

    Memory grows with the chunk and with the results, not with M times N.

    Args:
        queries: Embeddings to classify, ``(M, D)``.
        support: Embeddings of labelled images, ``(N, D)``.
        target: Classes of the labelled images ``(N,)``, int64 in ``[0, num_classes)``.
        num_classes: Number of classes C.
        temperature: :math:`\tau` > 0, in units of the cosine.

    Returns:
        ``(M, C)``, float32 at least, rows sum to 1.
    """
    chunks = list(zip(support.split(_SUPPORT), target.split(_SUPPORT), strict=True))
    found = [_classify(rows, chunks, num_classes, temperature) for rows in queries.split(_QUERIES)]
    return torch.cat(found)


def _classify(
    queries: Tensor, chunks: list[tuple[Tensor, Tensor]], num_classes: int, temperature: float
) -> Tensor:
    """Softmax over all chunks in one walk: sums relative to the largest similarity so far."""
    queries = promote(queries)
    sums = queries.new_zeros(len(queries), num_classes)
    largest = queries.new_full((len(queries), 1), -torch.inf)
    for support, target in chunks:
        logits = cosine(queries, support) / temperature
        larger = torch.maximum(largest, logits.amax(dim=1, keepdim=True))
        labels = functional.one_hot(target, num_classes).to(logits)
        with torch.autocast(logits.device.type, enabled=False):
            sums = sums * (largest - larger).exp() + (logits - larger).exp() @ labels
        largest = larger
    return sums / sums.sum(dim=1, keepdim=True)


def nearest_rows(
    queries: Tensor, support: Tensor, count: int, own: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the rows of largest cosine, without a matrix of all cosines.

    Args:
        queries: ``(M, D)``, any real; a row of zeros has cosine 0 with all.
        support: ``(N, D)``.
        count: How many rows K to find, at most N, or N - 1 with ``own``.
        own: Row of ``support`` that each query is ``(M,)``, int64, and that it does not find.

    Returns:
        Cosines ``(M, K)`` in [-1, 1], descending, float32 at least, and the rows ``(M, K)``, int64.

    Raises:
        ValueError: If there are not so many rows.

    Example:
        >>> cosines, rows = nearest_rows(torch.eye(2), torch.tensor([[1.0, 0.0], [3.0, 4.0]]), 1)
        >>> rows.tolist(), [round(value, 4) for value in cosines.flatten().tolist()]
        ([[0], [1]], [1.0, 0.8])
    """
    others = len(support) - (own is not None)
    if not 1 <= count <= others:
        raise ValueError(f"`count` must be in [1, {others}], the rows to find, got {count}.")
    found = []
    for start in range(0, max(len(queries), 1), _QUERIES):  # one chunk of nothing, too
        part = slice(start, start + _QUERIES)
        found.append(_nearest(queries[part], support, count, None if own is None else own[part]))
    return torch.cat([cosines for cosines, _ in found]), torch.cat([rows for _, rows in found])


def _nearest(
    queries: Tensor, support: Tensor, count: int, own: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The best of each chunk compete with the best so far."""
    best = promote(queries).new_empty(len(queries), 0)
    best_rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(support), _SUPPORT):
        cosines = cosine(queries, support[start : start + _SUPPORT])
        rows = torch.arange(start, start + cosines.shape[1], device=queries.device)
        if own is not None:
            cosines = cosines.masked_fill(rows == own[:, None], -torch.inf)
        cosines = torch.cat([best, cosines], dim=1)
        rows = torch.cat([best_rows, rows.expand(len(queries), -1)], dim=1)
        best, places = cosines.topk(min(count, cosines.shape[1]), dim=1)
        best_rows = rows.gather(1, places)
    return best, best_rows


class SoftNearestNeighbors(nn.Module):
    """A classifier without parameters: the embeddings of labelled images, and their classes.

    They are no buffers: their number changes, averaging and resuming have to leave them alone.

    Args:
        num_classes: Number of classes.
        temperature: In units of the cosine, above 0.
    """

    support: Tensor | None
    target: Tensor | None

    def __init__(self, num_classes: int, temperature: float = 0.1) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.temperature = temperature
        self.clear()

    def fit(self, support: Tensor, target: Tensor) -> None:
        """Take labelled images.

        Args:
            support: Embeddings ``(N, D)``.
            target: Classes ``(N,)``, int64.
        """
        # Tensors made in inference mode could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self.support, self.target = support.detach().clone(), target.clone()

    def clear(self) -> None:
        """Forget them, as the network that embedded them changes."""
        self.support = self.target = None

    @property
    def fitted(self) -> bool:
        """Whether there is something to compare with."""
        return self.support is not None

    def forward(self, embeddings: Tensor) -> Tensor:
        """Logarithms of the probabilities, which are logits too.

        Args:
            embeddings: ``(B, D)``.

        Returns:
            ``(B, num_classes)``, float32 at least.

        Raises:
            RuntimeError: If there are no labelled images yet.
        """
        if self.support is None or self.target is None:
            raise RuntimeError(
                "Soft nearest neighbours need labelled images to compare with: call `fit_support` "
                "after the last training step."
            )
        self.support = self.support.to(embeddings)
        self.target = self.target.to(embeddings.device)
        probs = classify_by_neighbors(
            embeddings, self.support, self.target, self.num_classes, temperature=self.temperature
        )
        return probs.clamp_min(torch.finfo(probs.dtype).tiny).log()


class SoftNearestNeighborAccuracy(Metric):
    """Top-k accuracy of soft nearest neighbours, as PAWS-NN is reported.

    Embeddings of all processes are kept until :meth:`compute`, which then walks them in chunks. A
    process without images has to call :meth:`update` with none, not to leave it out.

    Reference: Assran et al., 2021, https://arxiv.org/abs/2104.13963, sec. 5.

    Args:
        num_classes: Number of classes.
        temperature: In units of the cosine, above 0.
        top_k: How many of the most probable classes may hold the right one.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = SoftNearestNeighborAccuracy(2)
        >>> metric.update(torch.eye(2), torch.tensor([0, 1]), support=True)
        >>> metric.update(torch.tensor([[1.0, 0.5], [0.9, 1.0]]), torch.tensor([0, 0]))
        >>> metric.compute().item()
        0.5
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    support: list[Tensor]
    support_target: list[Tensor]
    queries: list[Tensor]
    query_target: list[Tensor]

    def __init__(
        self, num_classes: int, temperature: float = 0.1, top_k: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 1 <= top_k <= num_classes:
            raise ValueError(f"`top_k` must be in [1, {num_classes}], got {top_k}.")
        self.num_classes, self.top_k = num_classes, top_k
        self.temperature = check_temperature(temperature)
        for name in ("support", "support_target", "queries", "query_target"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, target: Tensor, support: bool = False) -> None:
        """Take some images.

        Args:
            embeddings: ``(B, D)``, any real.
            target: Their classes ``(B,)``, int64.
            support: Whether these are the labelled images to compare with.
        """
        (self.support if support else self.queries).append(promote(embeddings))
        (self.support_target if support else self.query_target).append(target)

    def compute(self) -> Tensor:
        """Share of right answers, a scalar in [0, 1].

        Raises:
            ValueError: If there are no labelled images, or none to classify.
        """
        if not len(self.support) or not len(self.queries):
            raise ValueError("`update` must be called with `support` True and with False before.")
        probs = classify_by_neighbors(
            dim_zero_cat(self.queries),
            dim_zero_cat(self.support),
            dim_zero_cat(self.support_target),
            self.num_classes,
            temperature=self.temperature,
        )
        best = probs.topk(self.top_k, dim=1).indices
        return (best == dim_zero_cat(self.query_target)[:, None]).any(dim=1).float().mean()
