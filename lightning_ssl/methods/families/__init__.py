"""The few abstract classes between the base and the methods."""

from lightning_ssl.methods.families.class_thresholds import ClassThresholdsModule
from lightning_ssl.methods.families.embedding import EmbeddingModule
from lightning_ssl.methods.families.imbalance import ImbalanceModule
from lightning_ssl.methods.families.projection import ProjectionModule
from lightning_ssl.methods.families.teacher import TeacherModule
from lightning_ssl.methods.families.weak_strong import WeakStrongModule

__all__ = (
    "ClassThresholdsModule",
    "EmbeddingModule",
    "ImbalanceModule",
    "ProjectionModule",
    "TeacherModule",
    "WeakStrongModule",
)
