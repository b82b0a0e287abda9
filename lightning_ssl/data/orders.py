"""In which order a stream's images come: global batches with random access, functions of a seed."""

from abc import ABC, abstractmethod

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lightning_ssl.seeding import make_generator


class _Permutations:
    """Endless fresh permutations of ``range(size)``, read by position; the last two are kept."""

    def __init__(self, size: int, *keys: int | str) -> None:
        self.size = size
        self.keys = keys
        self._kept: dict[int, Tensor] = {}

    def read(self, start: int, count: int) -> Tensor:
        parts = []
        while count > 0:
            epoch, offset = divmod(start, self.size)
            part = self._permutation(epoch)[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return torch.cat(parts).long()

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._kept:
            self._kept = {e: p for e, p in self._kept.items() if e == epoch - 1}
            # int32 halves the memory for lists of many million images.
            self._kept[epoch] = torch.randperm(
                self.size, generator=make_generator(*self.keys, epoch), dtype=torch.int32
            )
        return self._kept[epoch]


class Order(ABC):
    """The global batches of one stream.

    Args:
        size: Number of images in the list.
        batch_size: Images of the global batch, over all ranks.
        seed: Seed of the order.
        stream: Name of the stream, so that two streams never share their draws.

    Raises:
        ValueError: If the list or the batch is empty.
    """

    def __init__(self, size: int, batch_size: int, seed: int, stream: str) -> None:
        if size < 1:
            raise ValueError(f"The {stream} list holds no image; at least one is needed.")
        if batch_size < 1:
            raise ValueError(f"The {stream} batch size must be at least 1, got {batch_size}.")
        if size < batch_size:
            rank_zero_warn(
                f"The {stream} list ({size} images) is shorter than its batch ({batch_size}): "
                "images repeat inside a batch."
            )
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.stream = stream

    def check_ranks(self, world_size: int) -> None:
        """See that the global batch can be cut into equal consecutive slices.

        Args:
            world_size: Number of processes.

        Raises:
            ValueError: If it cannot.
        """
        if self.batch_size % world_size:
            flag = "batch_size" if self.stream == "labeled" else "unlabeled_batch_size"
            raise ValueError(
                f"`data.{flag}` counts the images of all processes together: it must be a "
                f"multiple of their number ({world_size}), got {self.batch_size}."
            )

    @abstractmethod
    def batch(self, step: int) -> Tensor:
        """Positions in the list of the global batch of a step.

        Args:
            step: Step of the run, counted from 0.

        Returns:
            Positions ``(batch_size,)``, int64.
        """


class Shuffled(Order):
    """Fresh permutations end to end: every image once before any image twice."""

    def __init__(self, size: int, batch_size: int, seed: int, stream: str) -> None:
        super().__init__(size, batch_size, seed, stream)
        self._permutations = _Permutations(size, seed, "plan", stream)

    def batch(self, step: int) -> Tensor:
        """See :meth:`Order.batch`."""
        return self._permutations.read(step * self.batch_size, self.batch_size)


class Balanced(Order):
    """Every class equally often: rounds over all classes in random order, one image of each.

    Within a class images follow fresh permutations end to end.

    Args:
        targets: Class of each image of the list ``(N,)``, int64.
        batch_size: Images of the global batch, over all ranks.
        seed: Seed of the order.
        stream: Name of the stream.
    """

    def __init__(self, targets: Tensor, batch_size: int, seed: int, stream: str) -> None:
        super().__init__(len(targets), batch_size, seed, stream)
        classes = targets.unique().tolist()
        self._members = [torch.nonzero(targets == c).flatten() for c in classes]
        self._within = [
            _Permutations(len(m), seed, "plan", stream, "class", c)
            for c, m in zip(classes, self._members, strict=True)
        ]
        self._rounds = _Permutations(len(classes), seed, "plan", stream, "rounds")

    def batch(self, step: int) -> Tensor:
        """See :meth:`Order.batch`."""
        start = step * self.batch_size
        classes = self._rounds.read(start, self.batch_size).tolist()
        rounds = [position // len(self._members) for position in range(start, start + len(classes))]
        return torch.stack(
            [
                self._members[c][self._within[c].read(visit, 1)[0]]
                for c, visit in zip(classes, rounds, strict=True)
            ]
        )


class Stratified(Order):
    """The same number of images of each of some classes: the support batches of PAWS.

    Classes come in fresh permutations, cut into batches; what is left of a permutation is not
    used. Within a class images follow fresh permutations, of which again only whole batches are
    used, so that no batch holds an image twice; a class with too few images repeats them.

    Args:
        targets: Class of each image of the list ``(N,)``, int64.
        batch_size: Images of the global batch, over all ranks.
        seed: Seed of the order.
        stream: Name of the stream.
        classes_per_batch: Classes of the global batch; None for all.
        unique_classes_per_rank: Whether the batch is laid out class by class, so that each rank
            gets all images of its own classes, instead of round by round over the classes, so that
            each rank gets some images of every class.

    Raises:
        ValueError: If there are fewer classes, or the images do not divide among them.
    """

    def __init__(
        self,
        targets: Tensor,
        batch_size: int,
        seed: int,
        stream: str,
        *,
        classes_per_batch: int | None = None,
        unique_classes_per_rank: bool = False,
    ) -> None:
        super().__init__(len(targets), batch_size, seed, stream)
        classes = targets.unique().tolist()
        per_batch = len(classes) if classes_per_batch is None else classes_per_batch
        if not 1 <= per_batch <= len(classes):
            raise ValueError(
                f"`data.classes_per_batch` must be in [1, {len(classes)}], the number of classes, "
                f"got {per_batch}."
            )
        if batch_size % per_batch:
            raise ValueError(
                "`data.batch_size` must be a multiple of the classes of a batch "
                f"({per_batch}, see `data.classes_per_batch`), got {batch_size}."
            )
        self.classes_per_batch = per_batch
        self.images_per_class = batch_size // per_batch
        self.unique_classes_per_rank = unique_classes_per_rank
        self._members = [torch.nonzero(targets == c).flatten() for c in classes]
        self._within = [
            _Permutations(len(m), seed, "plan", stream, "class", c)
            for c, m in zip(classes, self._members, strict=True)
        ]
        self._classes = _Permutations(len(classes), seed, "plan", stream, "classes")
        small = sum(len(m) < self.images_per_class for m in self._members)
        if small and batch_size <= self.size:  # else it was said of the whole list
            rank_zero_warn(
                f"{small} of {len(classes)} classes have fewer than {self.images_per_class} "
                f"{stream} images: theirs repeat inside a batch."
            )

    def check_ranks(self, world_size: int) -> None:
        """See :meth:`Order.check_ranks`: ranks share the classes or the images of each class."""
        if self.unique_classes_per_rank and self.classes_per_batch % world_size:
            raise ValueError(
                "`data.classes_per_batch` must be a multiple of the number of processes "
                f"({world_size}) with `data.unique_classes_per_rank`, got {self.classes_per_batch}."
            )
        if not self.unique_classes_per_rank and self.images_per_class % world_size:
            raise ValueError(
                f"`data.batch_size` ({self.batch_size}) must give each of the {world_size} "
                f"processes as many of the {self.images_per_class} images per class; choose "
                "another, or `data.unique_classes_per_rank`."
            )

    def batch(self, step: int) -> Tensor:
        """See :meth:`Order.batch`."""
        size = len(self._members)
        permutation, part = divmod(step, size // self.classes_per_batch)
        start = permutation * size + part * self.classes_per_batch
        classes = self._classes.read(start, self.classes_per_batch).tolist()
        # A permutation visits a class once at most, so its number counts the visits.
        images = torch.stack([self._images(c, permutation) for c in classes])
        return (images if self.unique_classes_per_rank else images.T).flatten()

    def _images(self, c: int, visit: int) -> Tensor:
        members, count = self._members[c], self.images_per_class
        start = visit * count
        if count <= len(members):
            permutation, part = divmod(visit, len(members) // count)
            start = permutation * len(members) + part * count
        return members[self._within[c].read(start, count)]


def order_of_classes(
    name: str,
    targets: Tensor,
    batch_size: int | None,
    seed: int,
    *,
    classes_per_batch: int | None,
    unique_classes_per_rank: bool,
    num_classes: int,
) -> Order:
    """Order of the labelled images by its name.

    Args:
        name: ``shuffled``, ``balanced`` or ``stratified``.
        targets: Classes of the list ``(N,)``.
        batch_size: Images of a step; None for 32, or 4 of each class in a stratified order.
        seed: Seed of the order.
        classes_per_batch: Classes of a stratified step; None for all.
        unique_classes_per_rank: See :class:`Stratified`.
        num_classes: Number of classes.

    Raises:
        ValueError: If options of a stratified order are given for another one.
    """
    if name == "stratified":
        return Stratified(
            targets,
            batch_size or 4 * (classes_per_batch or num_classes),
            seed,
            "labeled",
            classes_per_batch=classes_per_batch,
            unique_classes_per_rank=unique_classes_per_rank,
        )
    if classes_per_batch is not None or unique_classes_per_rank:
        raise ValueError(
            "`data.classes_per_batch` and `data.unique_classes_per_rank` need the "
            f"`data.labeled_order` 'stratified', got '{name}'."
        )
    size = batch_size or 32
    if name == "balanced":
        return Balanced(targets, size, seed, "labeled")
    return Shuffled(len(targets), size, seed, "labeled")
