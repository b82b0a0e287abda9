"""Methods: one LightningModule per file, each with its own ``training_step``."""

from lightning_ssl.methods.adamatch import AdaMatch
from lightning_ssl.methods.base import SSLModule
from lightning_ssl.methods.comatch import CoMatch
from lightning_ssl.methods.crmatch import CRMatch
from lightning_ssl.methods.dash import Dash
from lightning_ssl.methods.defixmatch import DeFixMatch
from lightning_ssl.methods.fixmatch import FixMatch
from lightning_ssl.methods.flexmatch import FlexMatch
from lightning_ssl.methods.freematch import FreeMatch
from lightning_ssl.methods.mean_teacher import MeanTeacher
from lightning_ssl.methods.mixmatch import MixMatch
from lightning_ssl.methods.moam import MOAM
from lightning_ssl.methods.paws import PAWS
from lightning_ssl.methods.pi_model import PiModel
from lightning_ssl.methods.pseudo_label import PseudoLabel
from lightning_ssl.methods.refixmatch import ReFixMatch
from lightning_ssl.methods.regmixmatch import RegMixMatch
from lightning_ssl.methods.remixmatch import ReMixMatch
from lightning_ssl.methods.ropaws import RoPAWS
from lightning_ssl.methods.s4l_exemplar import S4LExemplar
from lightning_ssl.methods.s4l_rotation import S4LRotation
from lightning_ssl.methods.sequencematch import SequenceMatch
from lightning_ssl.methods.simclr import SimCLR
from lightning_ssl.methods.simclr_ct import SimCLRCT
from lightning_ssl.methods.simmatch import SimMatch
from lightning_ssl.methods.softmatch import SoftMatch
from lightning_ssl.methods.suncet import SuNCEt
from lightning_ssl.methods.supervised import Supervised
from lightning_ssl.methods.uda import UDA
from lightning_ssl.methods.vat import VAT
from lightning_ssl.methods.vmfsne import VMFSNE

__all__ = (
    "MOAM",
    "PAWS",
    "UDA",
    "VAT",
    "VMFSNE",
    "AdaMatch",
    "CRMatch",
    "CoMatch",
    "Dash",
    "DeFixMatch",
    "FixMatch",
    "FlexMatch",
    "FreeMatch",
    "MeanTeacher",
    "MixMatch",
    "PiModel",
    "PseudoLabel",
    "ReFixMatch",
    "ReMixMatch",
    "RegMixMatch",
    "RoPAWS",
    "S4LExemplar",
    "S4LRotation",
    "SSLModule",
    "SequenceMatch",
    "SimCLR",
    "SimCLRCT",
    "SimMatch",
    "SoftMatch",
    "SuNCEt",
    "Supervised",
)
