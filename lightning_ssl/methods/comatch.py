"""CoMatch: predictions and embeddings that learn from each other by graphs."""

from typing import Any

from torch import Tensor
from torch.nn.functional import one_hot

from lightning_ssl.checks import check_fraction, check_weights
from lightning_ssl.distributed import gather
from lightning_ssl.losses import (
    confident,
    cosine,
    counting,
    cross_entropy,
    pseudo_label_graph,
    weighted_cross_entropy,
)
from lightning_ssl.methods.base import ViewSpec
from lightning_ssl.methods.families import EmbeddingModule
from lightning_ssl.state.banks import RecentBank
from lightning_ssl.types import Batch, as_batch


class CoMatch(EmbeddingModule):
    r"""CoMatch: images with similar pseudo-labels have similar embeddings, and the reverse.

    The prediction of the weak view, aligned, is mixed with those of similar images of a bank of
    recent ones, labelled images included: :math:`q_j`. It teaches the strong view's prediction, and
    the graph W of the q teaches the embeddings :math:`z, z'` of two changed views:

    .. math::
        \frac{1}{B} \sum_b H(y_b, p_b) + \lambda_u \frac{1}{\mu B} \sum_j
        \mathbb{1}[\max q_j \ge \tau] \; H(q_j, p(\mathcal{A}(u_j)))
        - \lambda_c \frac{1}{\mu B} \sum_{jk} W_{jk} \log \operatorname{softmax}_k(z_j z'_k / T)

    W is of :func:`~lightning_ssl.losses.pseudo_label_graph`, over the images of all processes.

    Reference: Li et al., 2021, https://arxiv.org/abs/2011.11183, sec. 3.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        embedding_dim: Width of the embeddings.
        temperature: T of similarities, above 0, in units of the cosine.
        lambda_c: Weight of the contrast of embeddings, at least 0.
        graph_threshold: Similarity of pseudo-labels in [0, 1] below which images are not
            connected.
        bank_size: Number of recent images to compare with; nothing is mixed before it is full.
        **kwargs: Arguments of :class:`~lightning_ssl.methods.families.EmbeddingModule`, such as
            ``threshold``, ``smoothing`` and ``heads``, and of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int = 64,
        temperature: float = 0.2,
        lambda_c: float = 1.0,
        graph_threshold: float = 0.8,
        bank_size: int = 2560,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, embedding_dim, temperature, **kwargs)
        check_weights(lambda_c=lambda_c)
        self.lambda_c = lambda_c
        self.graph_threshold = check_fraction("graph_threshold", graph_threshold)
        self.bank = RecentBank(bank_size, embedding_dim, num_classes)

    @property
    def views(self) -> ViewSpec:
        """A weak view of every image, a strong one and one of SimCLR of the unlabelled images."""
        return {"labeled": {"weak": 1}, "unlabeled": {"weak": 1, "strong": 1, "simclr": 1}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Labelled loss, pseudo-labels and contrast, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        x, u = batch.labeled, batch.unlabeled
        (logits_x, z_x), (logits_weak, z_weak), (logits_strong, z), (_, z_other) = (
            self.embed_together(
                x.views["weak"], u.views["weak"], u.views["strong"], u.views["simclr"]
            )
        )
        loss_x = cross_entropy(logits_x, x.target)
        aligned = self.aligned_probs(logits_weak)
        probs = self.bank.smooth(
            aligned, z_weak.detach(), smoothing=self.smoothing, temperature=self.temperature
        )
        _, mask = confident(probs, self.threshold)
        mask = counting(mask, u.kept)
        loss_u = weighted_cross_entropy(logits_strong, probs, mask)
        graph = pseudo_label_graph(
            *(probs, gather(probs)),
            threshold=self.graph_threshold,
            offset=self.global_rank * len(probs),
        )
        similar = cosine(z, gather(z_other)) / self.temperature
        loss_c = weighted_cross_entropy(similar, graph, u.kept)
        loss = loss_x + self.lambda_u * loss_u + self.lambda_c * loss_c
        # What is remembered is not smoothed, or errors would feed themselves.
        self.bank.update(z_weak, aligned)
        self.bank.update(z_x, one_hot(x.target, self.num_classes))

        self.log_losses(loss, x=loss_x, u=loss_u, contrast=loss_c)
        self.log_pseudo_labels(probs, mask, u.hidden_target)
        self.log("train/bank_rate", self.bank.fill_rate())
        self.log("train/neighbors", (graph > 0).sum(dim=1).float().mean())
        return loss
