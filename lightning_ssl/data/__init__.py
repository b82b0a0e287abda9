"""Data: sources, splits, plan, and the datamodule that joins them."""

from lightning_ssl.data.datamodule import SSLDataModule
from lightning_ssl.data.sources.arrays import from_arrays
from lightning_ssl.data.sources.base import Source
from lightning_ssl.data.sources.named import open_source

__all__ = ("SSLDataModule", "Source", "from_arrays", "open_source")
