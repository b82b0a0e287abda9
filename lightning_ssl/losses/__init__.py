"""Losses as pure functions: tensors in, tensor out; no state, no logging, no gathering."""

from lightning_ssl.losses.alignment import align
from lightning_ssl.losses.basic import (
    cross_entropy,
    full_precision,
    promote,
    sharpen,
    softmax,
    squared_error,
    weighted_cross_entropy,
)
from lightning_ssl.losses.contrastive import (
    nt_xent_loss,
    pseudo_label_graph,
    soft_suncet_loss,
    suncet_loss,
)
from lightning_ssl.losses.distance import distance_loss
from lightning_ssl.losses.entropy import entropy
from lightning_ssl.losses.fairness import fairness_loss
from lightning_ssl.losses.mixup import mixup
from lightning_ssl.losses.neighbors import cosine, smooth_labels, soft_nearest_neighbors
from lightning_ssl.losses.paws import PAWSTarget, me_max_loss, paws_loss, paws_targets
from lightning_ssl.losses.pseudo_label import confident, counting, pseudo_label_loss
from lightning_ssl.losses.resizemix import Box, kept_share, resize_mix
from lightning_ssl.losses.ropaws import ropaws_probs
from lightning_ssl.losses.rotation import four_rotations, rotation_labels, rotation_loss
from lightning_ssl.losses.similarity import aggregate, unfold
from lightning_ssl.losses.sne import vmf_neighbors, vmf_sne_loss
from lightning_ssl.losses.soft_labels import soft_label_loss
from lightning_ssl.losses.triplet import batch_hard_triplet_loss, swapped_identities
from lightning_ssl.losses.vat import (
    adversarial_direction,
    kl_divergence,
    unit_direction,
    vat_loss,
)

__all__ = (
    "Box",
    "PAWSTarget",
    "adversarial_direction",
    "aggregate",
    "align",
    "batch_hard_triplet_loss",
    "confident",
    "cosine",
    "counting",
    "cross_entropy",
    "distance_loss",
    "entropy",
    "fairness_loss",
    "four_rotations",
    "full_precision",
    "kept_share",
    "kl_divergence",
    "me_max_loss",
    "mixup",
    "nt_xent_loss",
    "paws_loss",
    "paws_targets",
    "promote",
    "pseudo_label_graph",
    "pseudo_label_loss",
    "resize_mix",
    "ropaws_probs",
    "rotation_labels",
    "rotation_loss",
    "sharpen",
    "smooth_labels",
    "soft_label_loss",
    "soft_nearest_neighbors",
    "soft_suncet_loss",
    "softmax",
    "squared_error",
    "suncet_loss",
    "swapped_identities",
    "unfold",
    "unit_direction",
    "vat_loss",
    "vmf_neighbors",
    "vmf_sne_loss",
    "weighted_cross_entropy",
)
