"""The labelled images alone: the baseline every other method is measured against."""

from typing import Any, Literal

import torch
from torch import Tensor

from lightning_ssl.callbacks.head_start import check_head_init
from lightning_ssl.losses import cross_entropy, soft_label_loss
from lightning_ssl.methods.base import SSLModule, ViewSpec
from lightning_ssl.models import MLPHead
from lightning_ssl.types import Batch, as_batch


class Supervised(SSLModule):
    r"""Cross-entropy on the labelled images, from scratch or from other weights.

    .. math:: \frac{1}{B} \sum_b H(y_b, p(\alpha(x_b)))

    With ``soft_targets`` it learns the probabilities :math:`t` of a table of several models from a
    weak and a strong view; where a label was given, :math:`t` is 1 for it.

    .. math:: \frac{1}{B} \sum_b KL(t_b, p(\alpha(x_b))) + KL(t_b, p(\mathcal{A}(x_b)))

    ``weights`` with a projection head, as after pre-training with PAWS, give their network and,
    to ``head: mlp``, the first layer of that head. The last layer always starts anew. Weights of a
    whole classifier are taken as they are.

    Reference: the baselines of Zhai et al., 2019, https://arxiv.org/abs/1905.03670, sec. 4; with
    ``head: mlp`` the fine-tuning of Assran et al., 2021, https://arxiv.org/abs/2104.13963; with
    ``soft_targets`` the student of V-PET, https://arxiv.org/abs/2503.09707.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        head: ``linear``, or ``mlp`` for linear, BatchNorm, ReLU and a zero-initialised linear.
        soft_targets: Whether to learn probabilities, which the data has with ``pseudo_column:
            soft``.
        **kwargs: Arguments of :class:`SSLModule`.

    Raises:
        ValueError: If ``head`` does not exist.
    """

    def __init__(
        self,
        num_classes: int,
        head: Literal["linear", "mlp"] = "linear",
        soft_targets: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        if head not in ("linear", "mlp"):
            raise ValueError(f"`head` must be one of ('linear', 'mlp'), got {head!r}.")
        if head == "mlp":
            check_head_init(self, self.head_init, "whose `head` is 'mlp'")
            self.classifier = MLPHead(self.num_features, num_classes)
        self.soft_targets = soft_targets

    @property
    def views(self) -> ViewSpec:
        """One weak view of each labelled image; with soft targets a strong one, too."""
        return {"labeled": {"weak": 1, "strong": 1} if self.soft_targets else {"weak": 1}}

    def adapt_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Choose what to start from: the network of a pre-training, or a whole classifier.

        Args:
            state: Tensors of the file.

        Returns:
            Tensors by the names they have in this module.
        """
        parts = {key.partition(".")[0] for key in state}
        if "projection" not in parts or "classifier" in parts:
            return state
        mlp = isinstance(self.classifier, MLPHead)
        shared = ("projection.fc1.", "projection.bn1.") if mlp else ()
        fresh = "classifier.fc2." if mlp else "classifier."
        taken = {
            key.replace("projection.", "classifier.") if key.startswith(shared) else key: value
            for key, value in state.items()
            if key.startswith(shared) or not key.startswith(("projection.", "prediction."))
        }
        own = self.state_dict().items()
        return taken | {key: value for key, value in own if key.startswith(fresh)}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss of the labelled images, see :meth:`SSLModule.training_step`."""
        labeled = as_batch(batch, self.views).labeled
        logits = self.forward_together(*(labeled.views[name] for name in self.views["labeled"]))
        if self.soft_targets:
            if labeled.probs is None:
                raise ValueError("`batch['labeled']` must have 'probs' for soft targets, got none.")
            loss = soft_label_loss(torch.cat(logits), labeled.probs)
        else:
            loss = cross_entropy(logits[0][0], labeled.target)
        self.log_losses(loss)
        return loss
