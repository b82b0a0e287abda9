"""LARS with the learning rate inside its momentum, as PAWS was trained."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TRUST, EPS = 0.001, 1e-8
"""Trust coefficient and guard of the division, of this LARS and of timm's (You et al., 2017)."""


class LarsRateInMomentum(torch.optim.Optimizer):
    """LARS as facebookresearch/suncet runs it: the momentum buffer holds lr times gradient.

    With :math:`d = -lr g`: :math:`v = m v + d`, :math:`w = w + v`. The gradient of a ``decayed``
    group is first replaced by :math:`a (g + k w)` with decay :math:`k` and
    :math:`a = 0.001 |w| / (|g| + k |w| + 10^{-8})`; where a norm is 0 it stays as it is.

    Args:
        params: Parameters or groups; ``decayed: False`` keeps a group from adapting.
        lr: Learning rate.
        weight_decay: Decay inside the adapted gradient.
        momentum: Factor of the buffer per update.
        nesterov: Whether to look ahead.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        nesterov: bool = False,
    ) -> None:
        """Register the groups."""
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, defaults | {"nesterov": nesterov, "decayed": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: Evaluates the model again and returns the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        if group["decayed"]:
            grads = _adapt(params, grads, group["weight_decay"])
        changes = torch._foreach_mul(grads, -group["lr"])
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        velocities = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, changes)
        if group["nesterov"]:
            torch._foreach_add_(params, changes)
            torch._foreach_add_(params, velocities, alpha=group["momentum"])
        else:
            torch._foreach_add_(params, velocities)


def _adapt(weights: list[Tensor], grads: list[Tensor], decay: float) -> list[Tensor]:
    w, g = (torch.stack(torch._foreach_norm(values)) for values in (weights, grads))
    adapts = (w > 0) & (g > 0)
    # Where a norm is 0 the gradient stays as it is, without the decay too.
    decays = torch.where(adapts, decay, torch.zeros_like(w)).unbind()
    scales = torch.where(adapts, TRUST * w / (g + decay * w + EPS), 1.0).unbind()
    adapted: list[Tensor] = list(torch._foreach_mul(weights, decays))
    torch._foreach_add_(adapted, grads)
    torch._foreach_mul_(adapted, scales)
    return adapted
