"""Losses as pure functions: tensors in, tensor out; no state, no logging, no gathering."""

from lightning_ssl.losses.basic import cross_entropy, promote, softmax
from lightning_ssl.losses.pseudo_label import pseudo_label_loss

__all__ = ("cross_entropy", "promote", "pseudo_label_loss", "softmax")
