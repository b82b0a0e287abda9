"""Options that say whether features of a frozen network stand in for the images."""

from typing import Any

from lightning_ssl.data.described import DescribedData
from lightning_ssl.data.features.cache import FeatureCache


class CachedData(DescribedData):
    """Data of which a method may see stored features in the place of images.

    Args:
        dataset: See :class:`~lightning_ssl.data.described.DescribedData`.
        cached_features: Whether to train on features of a frozen network, computed once and stored.
        features_dir: Folder in which they are stored; null for ``lightning_ssl/features`` in the
            user's cache.
        cached_views: How many draws of each view are stored, or of some by name; null for 4 of
            ``weak``, 16 of ``local``, 8 of others.
        reject_outliers: Whether unlabelled images that are farther from the labelled ones than 95 %
            of these are from each other, by the cosine of their stored features, count in no loss
            that predictions teach.
        **kwargs: Arguments of :class:`~lightning_ssl.data.described.DescribedData`.

    Raises:
        ValueError: If an argument is unknown or out of range.
    """

    def __init__(
        self,
        dataset: str,
        cached_features: bool = False,
        features_dir: str | None = None,
        cached_views: int | dict[str, int] | None = None,
        reject_outliers: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(dataset, **kwargs)
        self.features_dir = features_dir
        if reject_outliers and not cached_features:
            raise ValueError(
                "`data.reject_outliers` must be false without `data.cached_features`, by which "
                "images are compared, got true."
            )
        cache = FeatureCache(self, features_dir, cached_views, reject_outliers)
        self._features = cache if cached_features else None

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`DescribedData.state_dict`; and the features that a run is trained on."""
        record = super().state_dict()
        return record if self._features is None else {**record, "features": self._features.record()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :meth:`DescribedData.load_state_dict`; features are checked when weights are there.

        Args:
            state_dict: What :meth:`state_dict` returned.
        """
        super().load_state_dict(state_dict)
        if self._features is not None:
            self._features.resume(state_dict.get("features"))

    def teardown(self, stage: str) -> None:
        """Close the stored features.

        Args:
            stage: The stage that ends.
        """
        if self._features is not None:
            self._features.close()
