"""Time of one augmented view: ours against torchvision on PIL images, on tensors, and kornia.

    python benchmarks/augment.py                       # 32 and 224 pixels, about 2 minutes
    python benchmarks/augment.py --sizes 32 --rounds 3 --kornia ""

Microseconds of the thread's CPU time per view, everything included (parameters, conversion,
normalising): the best of some rounds, taken in turn so that all meet the same machine. Every
pipeline does the same operations with the same probabilities; PIL's blur is torchvision's Gaussian
here. kornia's RandAugment has another pool, so it is left out there. Per-image pipelines start from
decoded PIL images or tensors; no collation is counted.
"""

import argparse
import platform
import random
import time
from collections.abc import Callable
from typing import Any

import PIL
import torch
import torchvision
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from lightning_ssl.augment import Views

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
PIPELINES: dict[str, dict[str, int]] = {
    "weak": {"weak": 1},
    "weak + RandAugment + cutout": {"strong": 1},
    "SimCLR": {"simclr": 1},
    "PAWS 2 global + 6 local": {"global": 2, "local": 6},
}


def fixmatch_pil(image: Image.Image) -> Image.Image:
    """Two operations of FixMatch's pool, as the PyTorch ports write them."""
    width = image.size[0]
    affine = Image.Transform.AFFINE

    def enhance(kind: Any) -> Image.Image:
        return kind(image).enhance(random.uniform(0.05, 0.95))

    def move(make: Callable[[float], tuple[float, ...]]) -> Image.Image:
        return image.transform(image.size, affine, make(random.uniform(-0.3, 0.3)))

    pool: list[Callable[[], Image.Image]] = [
        lambda: ImageOps.autocontrast(image),
        lambda: enhance(ImageEnhance.Brightness),
        lambda: enhance(ImageEnhance.Color),
        lambda: enhance(ImageEnhance.Contrast),
        lambda: ImageOps.equalize(image),
        lambda: image,
        lambda: ImageOps.posterize(image, random.randint(4, 8)),
        lambda: image.rotate(random.uniform(-30, 30)),
        lambda: enhance(ImageEnhance.Sharpness),
        lambda: move(lambda v: (1, v, 0, 0, 1, 0)),
        lambda: move(lambda v: (1, 0, 0, v, 1, 0)),
        lambda: ImageOps.solarize(image, random.uniform(0, 256)),
        lambda: move(lambda v: (1, 0, v * width, 0, 1, 0)),
        lambda: move(lambda v: (1, 0, 0, 0, 1, v * width)),
    ]
    for operation in random.choices(pool, k=2):
        image = operation()
    return image


def fixmatch_tensor(image: Tensor) -> Tensor:
    """The same on one uint8 tensor."""
    width = image.shape[-1]

    def level() -> float:
        return random.uniform(0.05, 0.95)

    def affine(shear: tuple[float, float] = (0, 0), shift: tuple[float, float] = (0, 0)) -> Tensor:
        return tv.affine(image, 0.0, list(shift), 1.0, list(shear), center=[0, 0], fill=0)

    pool: list[Callable[[], Tensor]] = [
        lambda: tv.autocontrast(image),
        lambda: tv.adjust_brightness(image, level()),
        lambda: tv.adjust_saturation(image, level()),
        lambda: tv.adjust_contrast(image, level()),
        lambda: tv.equalize(image),
        lambda: image,
        lambda: tv.posterize(image, random.randint(4, 8)),
        lambda: tv.rotate(image, random.uniform(-30, 30), fill=0),
        lambda: tv.adjust_sharpness(image, level()),
        lambda: affine(shear=(random.uniform(-17, 17), 0)),
        lambda: affine(shear=(0, random.uniform(-17, 17))),
        lambda: tv.solarize(image, random.randint(0, 255)),
        lambda: affine(shift=(random.uniform(-0.3, 0.3) * width, 0)),
        lambda: affine(shift=(0, random.uniform(-0.3, 0.3) * width)),
    ]
    for operation in random.choices(pool, k=2):
        image = operation()
    return image


def cutout(image: Any) -> Any:
    """Grey square of half the side, on a PIL image or a uint8 tensor."""
    side = tv.get_size(image)[0]
    top, left = (random.randrange(side) - side // 4 for _ in range(2))
    half = side // 2
    if isinstance(image, Tensor):
        image = image.clone()
        image[:, max(0, top) : top + half, max(0, left) : left + half] = 127
        return image
    image = image.copy()
    box = (left, top, left + half - 1, top + half - 1)
    ImageDraw.Draw(image).rectangle(box, (127, 127, 127))
    return image


def per_image(view: str, size: int, pil: bool) -> Callable[[Any], Tensor]:
    """The pipeline of a view for one image, from torchvision's transforms."""
    large = size > 64
    strength = 1.0 if large else 0.5
    flip = v2.RandomHorizontalFlip()
    end = [
        *([v2.PILToTensor()] if pil else []),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ]
    if view in ("weak", "strong"):
        pad = v2.RandomCrop(size, padding=size // 8, padding_mode="reflect")
        steps: list[Any] = [v2.RandomResizedCrop(size), flip] if large else [flip, pad]
        if view == "strong":
            steps += [v2.Lambda(fixmatch_pil if pil else fixmatch_tensor), v2.Lambda(cutout)]
        return v2.Compose([*steps, *end])
    crops = {
        "simclr": (size, (0.08, 1.0)),
        "global": (size, (0.14, 1.0) if large else (0.75, 1.0)),
        "local": (-(-96 * size // 224), (0.05, 0.14)) if large else (18, (0.3, 0.75)),
    }
    side, scale = crops[view]
    x = 0.8 * strength
    steps = [
        v2.RandomResizedCrop(side, scale, antialias=True),
        flip,
        v2.RandomApply([v2.ColorJitter(x, x, x, 0.2 * strength)], 0.8),
    ]
    if large or view == "simclr":
        steps.append(v2.RandomGrayscale(0.2))
        if large:
            steps.append(v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], 0.5))
    else:
        solarize = v2.Lambda(lambda image: tv.solarize(image, random.uniform(0, 255)))
        steps += [v2.RandomApply([solarize], 0.2), v2.RandomEqualize(0.2)]
    return v2.Compose([*steps, *end])


def with_kornia(view: str, size: int) -> Callable[[Tensor], Tensor] | None:
    """The pipeline of a view for a batch, from kornia; None where kornia has no such pool."""
    import kornia.augmentation as K  # noqa: N812 - kornia's own convention

    if view == "strong":
        return None
    large = size > 64
    if view == "weak":
        crop = (
            K.RandomResizedCrop((size, size))
            if large
            else K.RandomCrop((size, size), padding=size // 8, padding_mode="reflect")
        )
        steps: list[Any] = [crop, K.RandomHorizontalFlip()]
    else:
        side = {True: -(-96 * size // 224), False: 18}[large] if view == "local" else size
        scale = {"simclr": (0.08, 1.0), "global": (0.14, 1.0) if large else (0.75, 1.0)}.get(
            view, (0.05, 0.14) if large else (0.3, 0.75)
        )
        x = 0.8 if large else 0.4
        steps = [
            K.RandomResizedCrop((side, side), scale),
            K.RandomHorizontalFlip(),
            K.ColorJitter(x, x, x, x / 4, p=0.8),
        ]
        if large or view == "simclr":
            steps.append(K.RandomGrayscale(p=0.2))
            if large:
                steps.append(K.RandomGaussianBlur((13, 13), (0.1, 2.0), p=0.5))
        else:
            steps += [K.RandomSolarize(0.5, 0.0, p=0.2), K.RandomEqualize(p=0.2)]
    steps.append(K.Normalize(torch.tensor(MEAN), torch.tensor(STD)))
    pipeline = torch.nn.Sequential(*steps)
    return lambda images: pipeline(images.float() / 255)


def contenders(
    views: dict[str, int], size: int, images: Tensor, few: int, kornia: bool
) -> dict[str, tuple[Callable[[], None], int]]:
    """What to time: name to a call and the number of views it makes."""
    total = sum(views.values())
    ours = Views({"unlabeled": views}, size, mean=MEAN, std=STD)
    step = iter(range(10**9))
    out: dict[str, tuple[Callable[[], None], int]] = {
        "ours": (lambda: void(ours("unlabeled", images, next(step))), total * len(images))
    }
    for name, pil in (("torchvision PIL", True), ("torchvision tensors", False)):
        singles = [Image.fromarray(x.permute(1, 2, 0).numpy()) if pil else x for x in images[:few]]
        made = [(per_image(view, size, pil), copies) for view, copies in views.items()]

        def run(singles: list[Any] = singles, made: list[Any] = made) -> None:
            for transform, copies in made:
                for image in singles:
                    for _ in range(copies):
                        transform(image)

        out[name] = (run, total * len(singles))
    if kornia:
        batched = [(with_kornia(view, size), copies) for view, copies in views.items()]
        if all(function is not None for function, _ in batched):

            def run_kornia() -> None:
                for function, copies in batched:
                    function(images.repeat(copies, 1, 1, 1))  # type: ignore[misc]

            out["kornia"] = (run_kornia, total * len(images))
    return out


def void(result: object) -> None:
    """Drop a result."""


def measure(calls: dict[str, tuple[Callable[[], None], int]], rounds: int) -> dict[str, float]:
    """Best time per view in microseconds, rounds in turn."""
    best = dict.fromkeys(calls, float("inf"))
    for number in range(rounds + 1):
        for name, (call, views) in calls.items():
            start = time.thread_time()
            call()
            if number > 0:  # the first round warms up
                best[name] = min(best[name], (time.thread_time() - start) / views * 1e6)
    return best


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 224])
    parser.add_argument("--batch", type=int, nargs="+", default=[448, 16], help="one per size")
    parser.add_argument("--few", type=int, default=64, help="images for per-image pipelines")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--kornia", default="yes", help="empty to leave kornia out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    # A training process has freed larger tensors than ours by then, after which glibc keeps freed
    # memory; without this, page faults on fresh memory would cost more than most operations.
    void(torch.ones(31 * 2**18))
    try:
        import kornia

        version = kornia.__version__ if args.kornia else ""
    except ImportError:
        version = ""
    print(f"{cpu()}, 1 thread; Python {platform.python_version()}, torch {torch.__version__},")
    print(
        f"torchvision {torchvision.__version__}, Pillow {PIL.__version__}, kornia {version or '-'}"
    )
    for size, batch in zip(args.sizes, args.batch, strict=False):
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (batch, 3, size, size), generator=generator).byte()
        print(f"\n{size}x{size}, batch {batch}: us per view (x: times ours)")
        for title, views in PIPELINES.items():
            calls = contenders(views, size, images, min(args.few, batch), bool(version))
            best = measure(calls, args.rounds)
            cells = [f"{name} {t:8.1f} ({t / best['ours']:4.1f}x)" for name, t in best.items()]
            print(f"{title:28s}", "  ".join(cells), flush=True)


def cpu() -> str:
    """Name of the processor."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line for line in file if line.startswith("model name")]
        return lines[0].split(":")[1].strip()
    except (OSError, IndexError):
        return platform.processor()


if __name__ == "__main__":
    main()
