"""Formats of exported networks: how each is written, and read again to see what it says."""

import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lightning_ssl.export.network import Predictor

TOLERANCE = 1e-5
"""How far a file's probabilities and scores may be from the method's."""

Run = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        file: Name of its file.
        write: Writes a network, of which it gets an example of its images, to a path.
        read: Reads the file again; of weights alone they go into a copy of the network.
        packages: What it needs of the extra ``export``.
    """

    file: str
    write: Callable[[Predictor, Tensor, Path], None]
    read: Callable[[Predictor, Path], Run]
    packages: tuple[str, ...] = ()


def check_installed(name: str) -> None:
    """See that the packages of a format are there.

    Args:
        name: The format.

    Raises:
        ValueError: If one is missing.
    """
    missing = [package for package in FORMATS[name].packages if find_spec(package) is None]
    if missing:
        raise ValueError(
            f"`format` '{name}' needs {', '.join(missing)}, which {_verb(missing)} not installed: "
            "pip install 'lightning_ssl[export]'"
        )


def _verb(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def write_checked(
    name: str, network: Predictor, images: Tensor, expected: Sequence[Tensor], path: Path
) -> float:
    """Write a network, read it again and compare what it says.

    Args:
        name: The format.
        network: The network.
        images: Preprocessed images ``(N, C, S, S)``, several.
        expected: What the method says of them, for each output.
        path: The file.

    Returns:
        The largest difference.

    Raises:
        ValueError: If it is above :data:`TOLERANCE`, also for one image alone.
    """
    kind = FORMATS[name]
    kind.write(network, images, path)
    run, worst = kind.read(network, path), 0.0
    for rows in (slice(None), slice(0, 1)):
        found = run(images[rows])
        pairs = zip(found, expected, strict=True)
        worst = max(worst, *(float((f - e[rows]).abs().max()) for f, e in pairs))
    if not worst <= TOLERANCE:
        raise ValueError(
            f"`format` '{name}' does not fit this network: what it says differs by {worst:.1e} "
            f"from what the method says, more than {TOLERANCE:.0e}. Nothing was written."
        )
    return worst


def _trace(network: Predictor, images: Tensor) -> torch.export.ExportedProgram:
    shapes = {"images": {0: torch.export.Dim("batch", min=1)}}
    with torch.no_grad():
        return torch.export.export(network, (images,), dynamic_shapes=shapes, strict=False)


def _write_onnx(network: Predictor, images: Tensor, path: Path) -> None:
    program = torch.onnx.export(
        _trace(network, images),
        (images,),
        dynamo=True,
        input_names=["images"],
        output_names=list(network.outputs),
        verbose=False,
    )
    assert program is not None
    program.save(str(path))


def _read_onnx(network: Predictor, path: Path) -> Run:
    import onnxruntime  # an extra

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> list[Tensor]:
        found = session.run(list(network.outputs), {"images": images.numpy()})
        return [torch.from_numpy(values) for values in found]

    return run


def _write_program(network: Predictor, images: Tensor, path: Path) -> None:
    with warnings.catch_warnings():
        # Of devices other than the CPU; what was written is compared in any case.
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        torch.export.save(_trace(network, images), path)


def _read_program(network: Predictor, path: Path) -> Run:
    run: Run = torch.export.load(path).module()
    return run


def _write_weights(network: Predictor, images: Tensor, path: Path) -> None:
    state = network.method.state_dict()
    save_file({n: v.contiguous().clone() for n, v in state.items()}, path, {"format": "pt"})


def _read_weights(network: Predictor, path: Path) -> Run:
    anew = deepcopy(network)
    for tensor in anew.method.state_dict().values():
        tensor.zero_()  # so that one that the file lacks is found
    anew.method.load_state_dict(load_file(path))
    return _without_gradient(anew)


def _without_gradient(network: nn.Module) -> Run:
    def run(images: Tensor) -> Any:
        with torch.no_grad():
            return network(images)

    return run


FORMATS = {
    "onnx": Format(*("model.onnx", _write_onnx, _read_onnx), ("onnx", "onnxruntime", "onnxscript")),
    "torch_export": Format("model.pt2", _write_program, _read_program),
    "safetensors": Format("model.safetensors", _write_weights, _read_weights),
}
"""Name to format."""
