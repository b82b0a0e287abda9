"""Banks of embeddings, as buffers that are the same on all processes."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightning_ssl.checks import check_count, check_fraction, check_index
from lightning_ssl.distributed import gather
from lightning_ssl.losses import cosine, full_precision, promote, soft_nearest_neighbors


class RecentBank(nn.Module):
    """Embeddings and class probabilities of the last images, first in, first out.

    Reference: Li et al., 2021, https://arxiv.org/abs/2011.11183, sec. 3.

    Args:
        size: Number of images.
        num_features: Width of an embedding D.
        num_classes: Number of classes C.

    Raises:
        ValueError: If ``size`` is below 1.
    """

    features: Tensor
    """Embeddings ``(size, D)``."""
    probs: Tensor
    """Their class probabilities ``(size, C)``."""
    written: Tensor
    """Number of images that came, int64; the next one goes to this position modulo ``size``."""

    def __init__(self, size: int, num_features: int, num_classes: int) -> None:
        super().__init__()
        check_count("bank_size", size)
        self.register_buffer("features", torch.zeros(size, num_features))
        self.register_buffer("probs", torch.zeros(size, num_classes))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    def fill_rate(self) -> Tensor:
        """Share of the bank that is written; a scalar."""
        return (self.written / len(self.features)).clamp(max=1)

    def smooth(self, probs: Tensor, z: Tensor, *, smoothing: float, temperature: float) -> Tensor:
        r"""Mix predictions with those of similar images, once the bank is full.

        .. math::
            \alpha p_i + (1 - \alpha) \sum_k \operatorname{softmax}_k(\cos(z_i, f_k) / T) \, p_k

        Args:
            probs: Predictions ``(B, C)``, rows sum to 1.
            z: Embeddings of the images ``(B, D)``.
            smoothing: Share :math:`\alpha` in [0, 1] of an image's own prediction.
            temperature: T > 0, in units of the cosine.

        Returns:
            ``(B, C)``, rows sum to 1.
        """
        similar = soft_nearest_neighbors(z, self.features, self.probs, temperature=temperature)
        mixed = smoothing * probs + (1 - smoothing) * similar
        return torch.where(self.written >= len(self.features), mixed, probs)

    @torch.no_grad()
    def update(self, z: Tensor, probs: Tensor) -> None:
        """Take in the images of a batch; call it on all processes.

        Args:
            z: Embeddings of this process's images ``(B, D)``.
            probs: Their class probabilities ``(B, C)``.
        """
        z, probs = gather(z), gather(probs)
        size, count = len(self.features), len(z)
        last = torch.arange(max(0, count - size), count, device=z.device)
        position = (self.written + last) % size
        self.features.index_copy_(0, position, z[-size:].to(self.features.dtype))
        self.probs.index_copy_(0, position, probs[-size:].to(self.probs.dtype))
        self.written.add_(count)


class LabeledBank(nn.Module):
    """One embedding of each labelled image, a moving average over its views.

    Reference: Zheng et al., 2022, https://arxiv.org/abs/2203.06915, sec. 3.

    Args:
        num_labeled: Length of the labelled list N.
        num_features: Width of an embedding D.
        decay: Weight in [0, 1] of the old embedding; an image that comes for the first time has
            none.

    Raises:
        ValueError: If an argument is outside its range.
    """

    features: Tensor
    """Embedding of each image ``(N, D)``, of length 1, 0 where it has not come yet."""
    target: Tensor
    """Class of each image ``(N,)``, int64, -1 where it has not come yet."""

    def __init__(self, num_labeled: int, num_features: int, decay: float) -> None:
        super().__init__()
        check_count("num_labeled", num_labeled)
        self.decay = check_fraction("bank_decay", decay)
        self.register_buffer("features", torch.zeros(num_labeled, num_features))
        self.register_buffer("target", torch.full((num_labeled,), -1))

    def fill_rate(self) -> Tensor:
        """Share of the images that have come; a scalar."""
        return (self.target >= 0).float().mean()

    def similarity(self, z: Tensor, temperature: float) -> Tensor:
        """Similarity of images to those of the bank.

        Args:
            z: Embeddings ``(B, D)``.
            temperature: T > 0, in units of the cosine.

        Returns:
            Cosine over T, ``(B, N)``, float32 at least; as low as can be for images that have not
            come yet, so that a softmax gives them nothing.
        """
        logits = cosine(z, self.features) / temperature
        # Not minus infinity: with no image at all a softmax would be NaN.
        return logits.masked_fill(self.target < 0, torch.finfo(logits.dtype).min)

    @torch.no_grad()
    def update(self, z: Tensor, target: Tensor, index: Tensor) -> None:
        """Take in the labelled images of a batch; call it on all processes.

        An image that is in the batch several times counts with the mean of its embeddings, and
        with the class of the first one.

        Args:
            z: Embeddings of this process's images ``(B, D)``, of length 1.
            target: Their classes ``(B,)``, int64.
            index: Their positions in the labelled list ``(B,)``, int64.

        Raises:
            ValueError: If the batch does not say which images it has.
        """
        index = gather(check_index("labeled", index))
        z, target = gather(promote(z)), gather(target)
        # No scatter-add, whose order on a GPU, and so whose last bits, would differ over processes.
        same = index[:, None] == index
        with full_precision(z):
            mean = (same.to(z) @ z) / same.sum(dim=1, keepdim=True)
        came, old = self.target[index, None] >= 0, self.features[index]
        new = normalize(torch.where(came, self.decay * old + (1 - self.decay) * mean, mean))
        # All copies write what the first one has: a product may round its rows differently.
        first = same.byte().argmax(dim=1)
        self.features.index_copy_(0, index, new[first].to(self.features.dtype))
        self.target.index_copy_(0, index, target[first])
