"""Methods: one LightningModule per file, each with its own ``training_step``."""

from lightning_ssl.methods.base import SSLModule
from lightning_ssl.methods.fixmatch import FixMatch
from lightning_ssl.methods.supervised import Supervised

__all__ = ("FixMatch", "SSLModule", "Supervised")
