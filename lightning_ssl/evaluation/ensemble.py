"""What several models say together."""

from torch import Tensor
from torch.nn.functional import one_hot


def mean_of_models(probs: Tensor, votes: bool = True) -> tuple[Tensor, Tensor]:
    r"""Mean of the votes of several models, or of their probabilities.

    A vote is 1 for the model's most probable class: :math:`t = \frac{1}{M} \sum_m
    \operatorname{onehot}(\arg\max p_m)`. It leaves out how sure a model is, as this is on another
    scale for each of them. V-PET's code has the softmax of the counts of votes in place of the
    mean, which is nearly uniform where there are many classes.

    Reference: V-PET, https://arxiv.org/abs/2503.09707, algorithm 1.

    Args:
        probs: Of M models ``(M, N, C)``, rows sum to 1.
        votes: Whether to take the mean of votes.

    Returns:
        Probabilities ``(N, C)`` of the type of ``probs``, and the most probable classes ``(N,)``,
        int64; where several are, the one of the largest mean probability.

    Example:
        >>> import torch
        >>> models = torch.tensor([[[0.9, 0.1]], [[0.4, 0.6]], [[0.3, 0.7]]])
        >>> [[round(value, 2) for value in row] for row in mean_of_models(models)[0].tolist()]
        [[0.33, 0.67]]
        >>> [round(value, 2) for value in mean_of_models(models, votes=False)[0][0].tolist()]
        [0.53, 0.47]
    """
    mean = probs.mean(dim=0)
    found = one_hot(probs.argmax(dim=2), probs.shape[2]).to(probs).mean(dim=0) if votes else mean
    most = found == found.amax(dim=1, keepdim=True)
    return found, mean.masked_fill(~most, -1).argmax(dim=1)
