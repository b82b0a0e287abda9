"""Losses as pure functions: tensors in, tensor out; no state, no logging, no gathering."""

from lightning_ssl.losses.basic import cross_entropy, promote, softmax
from lightning_ssl.losses.entropy import entropy
from lightning_ssl.losses.pseudo_label import pseudo_label_loss
from lightning_ssl.losses.rotation import four_rotations, rotation_labels, rotation_loss
from lightning_ssl.losses.triplet import batch_hard_triplet_loss
from lightning_ssl.losses.vat import (
    adversarial_direction,
    kl_divergence,
    unit_direction,
    vat_loss,
)

__all__ = (
    "adversarial_direction",
    "batch_hard_triplet_loss",
    "cross_entropy",
    "entropy",
    "four_rotations",
    "kl_divergence",
    "promote",
    "pseudo_label_loss",
    "rotation_labels",
    "rotation_loss",
    "softmax",
    "unit_direction",
    "vat_loss",
)
