"""SimMatch: strong views are as similar to the labelled images as weak ones are."""

from typing import Any

from torch import Tensor

from lightning_ssl.checks import check_count, check_weights
from lightning_ssl.losses import (
    aggregate,
    confident,
    counting,
    cross_entropy,
    unfold,
    weighted_cross_entropy,
)
from lightning_ssl.methods.base import WEAK_STRONG
from lightning_ssl.methods.families import EmbeddingModule
from lightning_ssl.state.banks import LabeledBank
from lightning_ssl.types import Batch, as_batch


class SimMatch(EmbeddingModule):
    r"""SimMatch: classes and similarities to labelled images are kept, and correct each other.

    With p the aligned prediction of the weak view and :math:`s_k = \operatorname{softmax}_k
    (z^w f_k / T)` its similarity to labelled image k of class :math:`y_k`,

    .. math::
        q_c = \alpha p_c + (1 - \alpha) \sum_{k: y_k = c} s_k, \qquad
        \tilde s_k = \frac{s_k p_{y_k}}{\sum_l s_l p_{y_l}}

    .. math::
        \frac{1}{B} \sum_b H(y_b, p_b) + \frac{1}{\mu B} \sum_j \big[ \lambda_u
        \mathbb{1}[\max q_j \ge \tau] \; H(q_j, p(\mathcal{A}(u_j)))
        + \lambda_{in} H(\tilde s_j, \operatorname{softmax}_k(z^s_j f_k / T)) \big]

    Reference: Zheng et al., 2022, https://arxiv.org/abs/2203.06915, sec. 3.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        num_labeled: Length of the labelled list; taken from the data on the command line.
        embedding_dim: Width of the embeddings.
        temperature: T of similarities, above 0, in units of the cosine.
        lambda_in: Weight of the loss of similarities, at least 0.
        bank_decay: Weight in [0, 1] of a labelled image's old embedding against its new one.
        warmup: Updates, at least 1, before the labelled images are compared with.
        **kwargs: Arguments of :class:`~lightning_ssl.methods.families.EmbeddingModule`, such as
            ``threshold``, ``smoothing`` and ``heads``, and of :class:`SSLModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    views = WEAK_STRONG
    """A weak view of every image, and a strong one of the unlabelled images."""

    def __init__(
        self,
        num_classes: int,
        num_labeled: int,
        embedding_dim: int = 128,
        temperature: float = 0.1,
        lambda_in: float = 1.0,
        bank_decay: float = 0.7,
        warmup: int = 50,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, embedding_dim, temperature, **kwargs)
        check_weights(lambda_in=lambda_in)
        self.lambda_in, self.warmup = lambda_in, check_count("warmup", warmup)
        self.bank = LabeledBank(num_labeled, embedding_dim, bank_decay)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Labelled loss, pseudo-labels and similarities, see :meth:`SSLModule.training_step`."""
        batch = as_batch(batch, self.views)
        x, u = batch.labeled, batch.unlabeled
        (logits_x, z_x), (logits_weak, z_weak), (logits_strong, z_strong) = self.embed_together(
            x.views["weak"], u.views["weak"], u.views["strong"]
        )
        loss_x = cross_entropy(logits_x, x.target)
        started = self.trainer.global_step >= self.warmup
        aligned = probs = self.aligned_probs(logits_weak)
        similar = self.bank.similarity(z_weak.detach(), self.temperature)
        if started:
            neighbors = aggregate(similar, self.bank.target, self.num_classes)
            probs = self.smoothing * aligned + (1 - self.smoothing) * neighbors
        _, mask = confident(probs, self.threshold)
        mask = counting(mask, u.kept)
        loss_u = weighted_cross_entropy(logits_strong, probs, mask)
        student = self.bank.similarity(z_strong, self.temperature)
        teacher = unfold(similar, aligned, self.bank.target)
        loss_in = weighted_cross_entropy(student, teacher, u.kept)
        # A weight of 0, not a missing term: the head's gradient has to exist in every update.
        loss = loss_x + self.lambda_u * loss_u + started * self.lambda_in * loss_in
        self.bank.update(z_x, x.target, x.index)

        self.log_losses(loss, x=loss_x, u=loss_u, instance=loss_in)
        self.log_pseudo_labels(probs, mask, u.hidden_target)
        self.log("train/bank_rate", self.bank.fill_rate())
        return loss
