"""Randomness as a pure function of named keys."""

import hashlib
import os

import torch


def derive_seed(*keys: int | str) -> int:
    """Hash keys to a seed that is the same on every machine and in every process.

    Args:
        *keys: What the randomness depends on, such as ``(seed, "views", step)``.

    Returns:
        An integer in [0, 2**63).

    Example:
        >>> derive_seed(0, "plan", 3) == derive_seed(0, "plan", 3)
        True
        >>> derive_seed(0, "plan", 3) == derive_seed(0, "plan", 4)
        False
    """
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def make_generator(*keys: int | str) -> torch.Generator:
    """Make a CPU generator seeded by :func:`derive_seed`.

    Args:
        *keys: What the randomness depends on.
    """
    return torch.Generator().manual_seed(derive_seed(*keys))


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generators that a step on a device draws from.

    ``torch.manual_seed`` seeds those of all devices, which on a CPU with a CUDA build takes longer
    than a small step, and keeps a traceback of each call.

    Args:
        seed: The seed.
        device: Where the step runs.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def global_seed() -> int:
    """Seed that Lightning's ``seed_everything`` left behind; 0 where it was not called."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))
