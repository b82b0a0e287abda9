"""The few abstract classes between the base and the methods."""

from lightning_ssl.methods.families.embedding import EmbeddingModule
from lightning_ssl.methods.families.projection import ProjectionModule
from lightning_ssl.methods.families.teacher import TeacherModule
from lightning_ssl.methods.families.weak_strong import WeakStrongModule

__all__ = ("EmbeddingModule", "ProjectionModule", "TeacherModule", "WeakStrongModule")
