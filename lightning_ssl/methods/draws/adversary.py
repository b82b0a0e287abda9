"""What methods with virtual adversarial training share: the changed images of a step."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.func import functional_call

from lightning_ssl.checks import check_count
from lightning_ssl.lightning_private import attached_trainer
from lightning_ssl.losses import adversarial_direction, full_precision, promote
from lightning_ssl.models import keep_statistics
from lightning_ssl.seeding import derive_seed, global_seed


class Adversary(nn.Module):
    """Finds for each image the small change that moves its prediction most, and makes it.

    Lengths are those of images in [-1, 1], whatever the images are normalised by.

    Args:
        epsilon: Length of the change, L2; None for 6 on 32x32 images of three channels and the
            same change per value on others.
        xi: Length of the change at which the gradient is taken; None for 0.01 on 32x32 images of
            three channels and the same per value on others.
        power_iterations: Gradients that the search takes.
        student_first: Order of the divergence, see :func:`lightning_ssl.losses.vat_loss`.
        image_std: Deviation of each channel by which the images were divided, in units of [0, 1];
            None for images in [-1, 1].
        clamp_norm: Whether a small gradient makes the change shorter, see
            :func:`lightning_ssl.losses.adversarial_direction`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    unit: Tensor
    """A change of 1 on the scale of [-1, 1], in units of the normalised images."""

    def __init__(
        self,
        epsilon: float | None,
        xi: float | None,
        power_iterations: int,
        student_first: bool,
        image_std: Sequence[float] | None,
        clamp_norm: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("epsilon", epsilon), ("xi", xi)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"`{name}` must be above 0 or null, got {value}.")
        image_std = (0.5,) if image_std is None else tuple(image_std)
        if min(image_std) <= 0:
            raise ValueError(f"`image_std` must hold values above 0, got {image_std}.")
        self.epsilon, self.xi = epsilon, xi
        self.power_iterations = check_count("power_iterations", power_iterations)
        self.student_first, self.clamp_norm = student_first, clamp_norm
        # A pixel in [-1, 1] is 2p - 1, a normalised one (p - mean) / std.
        unit = (0.5 / torch.tensor(image_std)).view(-1, 1, 1)
        self.register_buffer("unit", unit, persistent=False)

    def forward(self, network: nn.Module, images: Tensor, start: Tensor) -> Tensor:
        """Change the images.

        The search runs in float32 at least, without autocast and TF32: its differences are small.
        For the same reason its clean prediction is made anew, from the same images in the same
        precision; that of the training step may differ by its rounding and by the batch that
        BatchNorm saw. Parameters get no gradient, running statistics stay.

        Args:
            network: The method, as a function from images to logits.
            images: Normalised images ``(N, C, H, W)``.
            start: Random directions of the same shape, see :func:`draw_directions`.

        Returns:
            Images ``(N, C, H, W)`` at the distance ``epsilon``, or less, detached.
        """
        root = math.sqrt(images[0].numel() / 3072)
        exact, unit = promote(images.detach()), promote(self.unit)
        state = {n: v.detach() for n, v in (*network.named_parameters(), *network.named_buffers())}
        state = {n: promote(v) if v.is_floating_point() else v for n, v in state.items()}

        def logits(change: Tensor) -> Tensor:
            found: Tensor = functional_call(network, state, (exact + unit * change,))
            return found

        with keep_statistics(network), full_precision(images), _without_tf32():
            with torch.no_grad():
                clean = logits(torch.zeros_like(exact))
            direction = adversarial_direction(
                logits,
                clean,
                start,
                xi=0.01 * root if self.xi is None else self.xi,
                power_iterations=self.power_iterations,
                student_first=self.student_first,
                clamp_norm=self.clamp_norm,
            )
        epsilon = 6 * root if self.epsilon is None else self.epsilon
        return (exact + epsilon * unit * direction).to(images.dtype)


def draw_directions(
    method: LightningModule, stream: str, images: Tensor, step: int | None
) -> Tensor:
    """Draw a random direction for each image.

    A draw belongs to the image's place in the run's order of images, so that neither the number
    of ranks nor how many images a step takes changes it.

    Args:
        method: The method, which knows rank and number of ranks.
        stream: ``labeled`` or ``unlabeled``.
        images: Images of this rank ``(N, ...)``.
        step: The plan's step; None draws from the global generator.

    Returns:
        Standard normal values of the images' shape and device, float32 at least.
    """
    directions = torch.empty_like(promote(images), memory_format=torch.contiguous_format)
    if step is None:
        return directions.normal_()
    generator = torch.Generator(images.device)
    trainer = attached_trainer(method)
    ranks = 1 if trainer is None else trainer.world_size
    first = (int(step) * ranks + method.global_rank) * len(images)
    for i, direction in enumerate(directions):
        generator.manual_seed(derive_seed(global_seed(), "direction", stream, first + i))
        direction.normal_(generator=generator)
    return directions


@contextmanager
def _without_tf32() -> Iterator[None]:
    matmul = torch.get_float32_matmul_precision()
    convolution = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution
