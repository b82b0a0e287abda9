"""What FixMatch saves when its weak view takes a pass of its own, without gradient.

    python benchmarks/separate_weak.py --cpu-time --threads 1
    python benchmarks/separate_weak.py --backbone wrn_28_2 --steps 50 --device cuda

A step is ``training_step``, backward and an SGD update on fixed float images; fetching, views and
the average of the weights are the same both ways. A round times ``--steps`` steps of one way and
then of the other, so that noise meets both.
"""

import argparse
import statistics
import sys
import warnings

import torch
from augment import cpu
from step import clock_of

from lightning_ssl.methods import FixMatch
from lightning_ssl.types import Batch, Samples

CLASSES = 10


def main() -> None:
    """Print the time of a step both ways, round by round, and what is saved."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="wrn_10_1")
    parser.add_argument("--steps", type=int, default=1, help="of each way per round")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--labeled", type=int, default=64, help="images")
    parser.add_argument("--unlabeled", type=int, default=448, help="images")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="of torch; as many as cores by default")
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU time of this process, for a busy machine"
    )
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")  # logging without a trainer
    print(f"python {' '.join(sys.argv)}")
    print(f"{cpu()}, {torch.get_num_threads()} threads, {args.device}")

    def images(count: int) -> torch.Tensor:
        return torch.randn(1, count, 3, args.size, args.size, device=args.device)

    target = torch.arange(args.labeled, device=args.device) % CLASSES
    unlabeled = {name: images(args.unlabeled) for name in ("weak", "strong")}
    batch = Batch(0, Samples({"weak": images(args.labeled)}, target), Samples(unlabeled))
    modules = [
        FixMatch(CLASSES, backbone=args.backbone, separate_weak=separate).to(args.device)
        for separate in (False, True)
    ]
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.03) for module in modules]
    clock = clock_of(args.device, args.cpu_time)

    def seconds(way: int, steps: int) -> float:
        start = clock()
        for _ in range(steps):
            modules[way].training_step(batch, 0).backward()
            optimizers[way].step()
            optimizers[way].zero_grad()
        return (clock() - start) / steps

    for way in (0, 1):
        seconds(way, 2)
    print("together ms  separate ms  saved")
    saved = []
    for _ in range(args.repeats):
        together, separate = (seconds(way, args.steps) for way in (0, 1))
        saved.append(1 - separate / together)
        print(f"{together * 1e3:11.1f}  {separate * 1e3:11.1f}  {saved[-1]:5.1%}")
    print(f"median saved: {statistics.median(saved):.1%}")


if __name__ == "__main__":
    main()
