"""What each part of a training step takes, for ``step.py``."""

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from pytorch_lightning.profilers import Profiler
from torch import Tensor, nn

from lightning_ssl.augment import Views

FETCH, OPTIMIZER, EMA = "fetch, transfer, gather", "optimizer, schedule", "EMA"
JOIN, LOSS, REST = "joining views", "losses, logging", "rest of Lightning"
FORWARD, BACKWARD = "forward", "backward"  # of the network alone
HEADS, HEADS_BACKWARD, LOSS_BACKWARD = "heads", "heads, backward", "losses, backward"
PARTS = {  # the last word of Lightning's names of what it does
    "train_dataloader_next": FETCH,
    "batch_to_device": FETCH,
    "training_step": LOSS,
    "backward": LOSS_BACKWARD,  # until a gradient reaches what is watched
    "optimizer_step": OPTIMIZER,
    "lr_scheduler_step": OPTIMIZER,
}


class Parts(Profiler):
    """Time of each part without what is timed inside it; what has no name counts for its caller."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock = clock
        self.on = False
        self.times: dict[str, float] = {}

    def begin(self) -> None:
        """Start anew, inside one action of Lightning's."""
        self.on, self.times, self._stack = True, defaultdict(float), [REST, REST]
        self._mark = self.clock()

    def end(self, steps: int) -> dict[str, float]:
        """Return seconds per step."""
        self._switch()
        self.on = False
        return {part: seconds / steps for part, seconds in self.times.items()}

    def start(self, action_name: str) -> None:
        """Enter an action."""
        hook = action_name.rpartition(".")[2]
        averages = hook == "on_train_batch_end" and "[Callback]EMA" in action_name
        self.enter(EMA if averages else PARTS.get(hook))

    def stop(self, action_name: str) -> None:
        """Leave it."""
        self.leave()

    def enter(self, part: str | None) -> None:
        """Enter a part; None for that of the caller."""
        if self.on:
            self._switch()
            self._stack.append(part or self._stack[-1])

    def leave(self) -> None:
        """Go back to the caller's part."""
        if self.on:
            self._switch()
            self._stack.pop()

    def watch(self, module: nn.Module, forward: str, backward: str) -> None:
        """Time a module's forward passes, and what follows a gradient's arrival at its output."""

        def before(*_: Any) -> None:
            if self.on and self._stack[-1] == BACKWARD:  # a step that took gradients goes on
                self._turn(LOSS)
            self.enter(forward)

        def after(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self.leave()
            if self.on and output.requires_grad:
                output.register_hook(lambda _: self._turn(backward))

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Make a function a part."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self.enter(part)
            result = function(*args, **kwargs)
            self.leave()
            return result

        return run

    def _turn(self, part: str) -> None:
        self._switch()
        self._stack[-1] = part

    def _switch(self) -> None:
        now = self.clock()
        self.times[self._stack[-1]] += now - self._mark
        self._mark = now


class SplitViews:
    """The views of a datamodule, one after the other and timed while parts are."""

    def __init__(self, views: Views, parts: Parts) -> None:
        self.views, self.parts = views, parts

    def __call__(self, stream: str, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], ...]:
        """Make the views of a stream."""
        if not self.parts.on:
            return self.views(stream, *args, **kwargs)
        views: dict[str, Any] = {}
        drawn: dict[str, Any] = {}
        for name, pipeline in self.views._pipelines[stream].items():
            single = copy.copy(self.views)
            single._pipelines = {stream: {name: pipeline}}
            made = self.parts.timed(f"views: {stream}, {name}", single)
            for whole, part in zip((views, drawn), made(stream, *args, **kwargs), strict=True):
                whole |= part
        return views, drawn
