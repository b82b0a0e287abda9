"""Methods: one LightningModule per file, each with its own ``training_step``."""

from lightning_ssl.methods.base import SSLModule
from lightning_ssl.methods.fixmatch import FixMatch
from lightning_ssl.methods.paws import PAWS
from lightning_ssl.methods.ropaws import RoPAWS
from lightning_ssl.methods.simclr import SimCLR
from lightning_ssl.methods.simclr_ct import SimCLRCT
from lightning_ssl.methods.suncet import SuNCEt
from lightning_ssl.methods.supervised import Supervised

__all__ = (
    "PAWS",
    "FixMatch",
    "RoPAWS",
    "SSLModule",
    "SimCLR",
    "SimCLRCT",
    "SuNCEt",
    "Supervised",
)
