"""Virtual adversarial training: the most harmful small change of an image, and its loss."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_ssl.losses.basic import promote

_CLAMP = 1e-6  # TensorFlow clamps the square of a norm at 1e-12


def kl_divergence(logits: Tensor, logits_other: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""Mean Kullback-Leibler divergence between two predictions.

    .. math::
        \frac{1}{B} \sum_b w_b \sum_c p_{bc} (\log p_{bc} - \log q_{bc}), \quad
        p = \operatorname{softmax} z, \; q = \operatorname{softmax} z'

    Args:
        logits: :math:`z`, ``(B, C)``, any real; what is averaged over.
        logits_other: :math:`z'`, ``(B, C)``, any real.
        weight: Weight of each row ``(B,)``, at least 0, or bool; no gradient flows through it;
            None for 1. The mean divides by B, however many weights are 0.

    Returns:
        Scalar in nats, at least 0, float32 at least. The gradient flows into both.

    Example:
        >>> certain, undecided = torch.tensor([[50.0, 0.0]]), torch.zeros(1, 2)
        >>> round(kl_divergence(certain, undecided).item(), 4)
        0.6931
    """
    log_p, log_q = (promote(z).log_softmax(dim=-1) for z in (logits, logits_other))
    divergence = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    return (divergence if weight is None else divergence * weight.detach()).mean()


def vat_loss(logits: Tensor, logits_clean: Tensor, *, student_first: bool = True) -> Tensor:
    r"""Divergence of the prediction on changed images from that on clean ones.

    ``student_first`` is KL(changed || clean), what the code of S4L has; the other order,
    KL(clean || changed), is that of both papers. To second order in the change they are equal.

    Reference: Miyato et al., 2017, https://arxiv.org/abs/1704.03976, sec. 3; Zhai et al., 2019,
    https://arxiv.org/abs/1905.03670, sec. 3.

    Args:
        logits: Predictions on the changed images, ``(B, C)``, any real; they learn.
        logits_clean: Predictions on the clean images, ``(B, C)``; no gradient flows through them.
        student_first: Order of the divergence.

    Returns:
        Scalar in nats, at least 0, float32 at least.

    Example:
        >>> changed, clean = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]])
        >>> round(vat_loss(changed, clean).item(), 4)
        0.1109
        >>> round(vat_loss(changed, clean, student_first=False).item(), 4)
        0.1201
    """
    clean = logits_clean.detach()
    return kl_divergence(logits, clean) if student_first else kl_divergence(clean, logits)


def unit_direction(values: Tensor) -> Tensor:
    """Scale each row to an L2 norm of 1, however small it is.

    Gradients of the divergence are around 1e-8: their squares vanish in float32 if they are not
    scaled first, and a norm that is clamped leaves a step of a hundredth of what was asked for.

    Args:
        values: ``(N, ...)``, any real.

    Returns:
        The same shape, float32 at least; a row of zeros stays one.

    Example:
        >>> unit_direction(torch.tensor([[3e-30, 4e-30]])).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """
    flat: Tensor = promote(values).flatten(1)
    tiny = torch.finfo(flat.dtype).tiny
    flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp(min=tiny)
    flat = flat / torch.linalg.vector_norm(flat, dim=1, keepdim=True).clamp(min=tiny)
    return flat.view(values.shape)


def adversarial_direction(
    network: Callable[[Tensor], Tensor],
    logits: Tensor,
    start: Tensor,
    *,
    xi: float,
    power_iterations: int = 1,
    student_first: bool = True,
    clamp_norm: bool = False,
) -> Tensor:
    r"""Direction in which a small change of each image changes its prediction most.

    Power iteration with the Hessian of the divergence, by finite differences: the gradient of the
    divergence is 0 where nothing is changed, so that at a small distance :math:`\xi`

    .. math::
        d \leftarrow \frac{g}{\lVert g \rVert_2}, \quad
        g = \nabla_r \sum_i D(f(x_i + r_i), f(x_i)) \Big|_{r = \xi d}

    points along the Hessian times :math:`d`. The sum, where the papers have a mean, changes
    nothing but how near the gradient comes to underflow.

    Reference: Miyato et al., 2017, https://arxiv.org/abs/1704.03976, sec. 3.

    Args:
        network: Logits ``(N, C)`` of the images changed by ``(N, ...)``. Whatever precision it
            computes in is that of the search: half precision drowns the direction in rounding.
        logits: Its logits at no change, ``(N, C)``, of the same batch and in the same precision:
            any other difference between the two outweighs that of the change.
        start: Random directions ``(N, ...)``, of any norm above 0.
        xi: Distance of the finite difference, above 0. In float32 a hundredth for 32x32 images;
            1e-6 measures rounding errors.
        power_iterations: Gradients to take, at least 1.
        student_first: Order of the divergence, see :func:`vat_loss`.
        clamp_norm: Whether to divide the gradient of the mean divergence by its norm but at least
            by 1e-6, as TensorFlow's ``l2_normalize`` does in google-research/s4l, in place of by
            its norm: below that the result is shorter than 1.

    Returns:
        Unit vectors ``(N, ...)``, detached, float32 at least; zero where nothing changes the
        prediction. No parameter receives a gradient.

    Example:
        >>> x = torch.tensor([[0.5, -0.5]])
        >>> f = lambda r: (x + r) @ torch.tensor([[3.0, 0.0], [4.0, 0.0]])
        >>> d = adversarial_direction(f, f(torch.zeros(1, 2)), torch.tensor([[1.0, 0.0]]), xi=0.01)
        >>> [round(v, 3) for v in d[0].tolist()]
        [0.6, 0.8]
    """
    clean = logits.detach()
    direction = unit_direction(start)
    for _ in range(power_iterations):
        change = (xi * direction).requires_grad_()
        loss = vat_loss(network(change), clean, student_first=student_first)
        loss = loss if clamp_norm else loss * len(clean)
        # Not `backward`: it would add to the gradients of the parameters.
        (gradient,) = torch.autograd.grad(loss, change)
        direction = unit_direction(gradient)
        if clamp_norm:
            norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
            direction = direction * (norm / _CLAMP).clamp(max=1).view(-1, *[1] * (start.ndim - 1))
    return direction
