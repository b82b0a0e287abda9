"""Semi-supervised image classification for PyTorch Lightning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_ssl.classifier import load as load

__version__ = "0.1.0"

if not TYPE_CHECKING:  # a checker would take every name for one of ours

    def __getattr__(name: str) -> Any:
        """Import ``load`` when it is asked for: with it come PyTorch and Lightning."""
        if name != "load":
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        from lightning_ssl.classifier import load

        return load
