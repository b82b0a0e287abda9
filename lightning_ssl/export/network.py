"""A trained classifier as one plain network: from preprocessed images to what is said of them."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from lightning_ssl.callbacks.labeled import known_features
from lightning_ssl.classifier import Classifier
from lightning_ssl.evaluation import SoftNearestNeighbors
from lightning_ssl.losses import cosine, softmax
from lightning_ssl.models import merge_adapters


class Predictor(nn.Module):
    """What :meth:`Classifier.predict` computes of preprocessed images, in float32 on the CPU.

    It is a copy: adapters are merged, and what only training needs is left out.

    Args:
        classifier: The classifier.
        images: Some preprocessed images ``(N, C, S, S)``, to see which parts they pass through.

    Attributes:
        method: What is left of the method; its state dict is that of the exported weights.
        outputs: Names of what is returned.
    """

    labeled: Tensor | None

    def __init__(self, classifier: Classifier, images: Tensor) -> None:
        super().__init__()
        self.method = method = deepcopy(classifier.method).cpu().float().eval()
        merge_adapters(method.backbone)
        self.temperature = method.logit_temperature
        labeled = known_features(method)
        self.outputs = ("probabilities", "outlier_score")[: 1 + (labeled is not None)]
        if isinstance(method.classifier, SoftNearestNeighbors):
            method.classifier, labeled = _Neighbors(method.classifier), None  # it has them
        self.register_buffer("labeled", None if labeled is None else labeled.float())
        self._leave_out_unused(images)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Classify.

        Args:
            images: Preprocessed images ``(N, C, S, S)``, float32.

        Returns:
            Calibrated probabilities ``(N, num_classes)``, and where labelled images are known the
            cosine to the nearest of them ``(N,)``.
        """
        features = self.method.embed(images)
        probs = softmax(self.method.classifier(features) / self.temperature)
        head = self.method.classifier
        labeled = head.support if isinstance(head, _Neighbors) else self.labeled
        if labeled is None:
            return (probs,)
        return probs, cosine(features, labeled).amax(dim=1)

    @torch.no_grad()
    def _leave_out_unused(self, images: Tensor) -> None:
        """Take out the parts of the method that prediction does not pass through."""
        used: set[nn.Module] = set()
        hooks = [
            part.register_forward_hook(lambda part, *_: used.add(part))
            for part in self.method.modules()
        ]
        self(images)
        for hook in hooks:
            hook.remove()
        for name, part in list(self.method.named_children()):
            if used.isdisjoint(part.modules()):
                delattr(self.method, name)


class _Neighbors(nn.Module):
    """Soft nearest neighbours by one matrix, in operations that every format has.

    Args:
        classifier: Has the labelled images.
    """

    support: Tensor
    labels: Tensor

    def __init__(self, classifier: SoftNearestNeighbors) -> None:
        super().__init__()
        assert classifier.support is not None
        assert classifier.target is not None
        labels = one_hot(classifier.target, classifier.num_classes).float()
        self.temperature = classifier.temperature
        self.register_buffer("support", normalize(classifier.support.float()))
        self.register_buffer("labels", labels)

    def forward(self, embeddings: Tensor) -> Tensor:
        shares = (cosine(embeddings, self.support) / self.temperature).softmax(dim=1)
        probs = shares @ self.labels
        return probs.clamp_min(torch.finfo(probs.dtype).tiny).log()
