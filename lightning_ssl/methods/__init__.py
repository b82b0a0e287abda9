"""Methods: one LightningModule per file, each with its own ``training_step``."""

from lightning_ssl.methods.base import SSLModule
from lightning_ssl.methods.fixmatch import FixMatch
from lightning_ssl.methods.moam import MOAM
from lightning_ssl.methods.paws import PAWS
from lightning_ssl.methods.pseudo_label import PseudoLabel
from lightning_ssl.methods.regmixmatch import RegMixMatch
from lightning_ssl.methods.ropaws import RoPAWS
from lightning_ssl.methods.s4l_exemplar import S4LExemplar
from lightning_ssl.methods.s4l_rotation import S4LRotation
from lightning_ssl.methods.simclr import SimCLR
from lightning_ssl.methods.simclr_ct import SimCLRCT
from lightning_ssl.methods.suncet import SuNCEt
from lightning_ssl.methods.supervised import Supervised
from lightning_ssl.methods.vat import VAT

__all__ = (
    "MOAM",
    "PAWS",
    "VAT",
    "FixMatch",
    "PseudoLabel",
    "RegMixMatch",
    "RoPAWS",
    "S4LExemplar",
    "S4LRotation",
    "SSLModule",
    "SimCLR",
    "SimCLRCT",
    "SuNCEt",
    "Supervised",
)
