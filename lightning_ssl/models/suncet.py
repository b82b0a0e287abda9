"""Names of the tensors in checkpoints of facebookresearch/suncet, the original code of PAWS."""

from torch import Tensor

# The head of its first release (2020) is a plain sequence.
_SEQUENCE = {"0": "fc1", "2": "fc2"}
# Children of a head that classifies; with any other, the head is one of pre-training.
_FINE_TUNED = {"fc1", "bn1", "fc2", "weight", "bias"}


def rename_suncet(encoder: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of an ``encoder`` of suncet's the names that the methods here have.

    The network becomes ``backbone``, ``pred`` ``prediction`` and ``fc``, by what it consists of,
    ``projection`` (three layers, or the two of the first release, ``fc.0`` and ``fc.2``) or
    ``classifier`` (``fc1``, ``bn1``, ``fc2`` after fine-tuning, or one linear layer after that of
    the first release).

    Args:
        encoder: State dict, without ``module.``.
    """
    head = {key.split(".")[1] for key in encoder if key.startswith("fc.")}
    fc = "classifier" if head <= _FINE_TUNED else "projection"
    return {_rename(key, fc): value for key, value in encoder.items()}


def _rename(key: str, fc: str) -> str:
    part, _, rest = key.partition(".")
    if part == "pred":
        return f"prediction.{rest}"
    if part == "fc":
        child, dot, name = rest.partition(".")
        return f"{fc}.{_SEQUENCE.get(child, child)}{dot}{name}"
    return f"backbone.{key}"
