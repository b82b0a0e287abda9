"""The model card of an exported classifier: what it is, how good, and how it is used."""

import os
from collections.abc import Mapping
from typing import Any

from lightning_ssl.export.formats import FORMATS
from lightning_ssl.models import weights_licence

_PARTS = {"val": "validation images", "test": "test images"}


def card(
    described: Mapping[str, Any], checkpoint: Mapping[str, Any], difference: float, ckpt_path: str
) -> str:
    """Write a model card in Markdown.

    Args:
        described: What :func:`~lightning_ssl.export.described.describe` returned.
        checkpoint: What the checkpoint holds.
        difference: How far the file is from the method, as measured.
        ckpt_path: The checkpoint, of which the name is told.
    """
    classes = described["classes"]
    file = FORMATS[described["format"]].file
    rows = {
        "Classes": f"{len(classes)}: {_listed(classes)}",
        "Trained on": _data(checkpoint),
        "Method": f"{described['method']} of lightning_ssl",
        "Network": f"`{described['backbone']}`",
        "Updates": str(described["updates"]),
        "Seed": str(checkpoint.get("seed")),
        "Checkpoint": f"`{os.path.basename(ckpt_path)}`",
        "File": f"`{file}`, whose outputs were compared with the method's: at most "
        f"{difference:.1e} apart",
    }
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows.items())
    versions = ", ".join(f"{name} {value}" for name, value in described["versions"].items())
    return f"""# A classifier of {len(classes)} classes

| | |
|---|---|
{table}

## How good it is

{_metrics(described["metrics"])}

## Images

{_images(described)}

## Use

{_use(described, file)}

## Limits

An image of none of the classes gets one of them all the same.{_outliers(described)} \
{_calibrated(described)} Numbers above are of images like those of the training; on other cameras, \
places or times they may be worse.

## Licence

{_licence(described)}

## Versions

{versions}
"""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 50} more, see `model.json`" if len(names) > 50 else ""
    return f"{', '.join(names[:50])}{more}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _data(checkpoint: Mapping[str, Any]) -> str:
    options = checkpoint.get("datamodule_hyper_parameters", {})
    record = checkpoint.get("SSLDataModule", {})
    name, root = str(options.get("dataset", "")), options.get("root")
    place = f" `{os.path.basename(os.path.abspath(str(root)))}`" if root else ""
    counts = f"{len(record['labeled'])} labelled images"
    held = f", and {len(record['val'])} held out to validate" if len(record["val"]) else ""
    return f"{name}{place}, with {counts}{held}"


def _metrics(metrics: Mapping[str, float]) -> str:
    if not metrics:
        return (
            "Not known: the checkpoint holds no metrics of these weights. `lightning-ssl test` "
            "measures them."
        )
    stages = list(dict.fromkeys(name.partition("/")[0] for name in metrics))
    told = " and ".join(_PARTS.get(stage, "images") for stage in stages)
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in metrics.items())
    return (
        f"Of the {told}, as the last validation of these weights logged them:\n\n"
        f"| | |\n|---|---|\n{rows}"
    )


def _images(described: Mapping[str, Any]) -> str:
    size, short = described["size"], described["short_side"]
    turned = "turned as their EXIF data say, " if described["exif_orientation"] else ""
    cut = f"the centre of {size} pixels is cut out" if short != size else "the centre is cut out"
    return (
        f"{described['mode']}, {turned}resized ({described['interpolation']}, antialiased) so that "
        f"the short side has {short} pixels; {cut}; values in [0, 1] less {described['mean']}, "
        f"over {described['std']}. `model.json` holds these numbers."
    )


def _use(described: Mapping[str, Any], file: str) -> str:
    if described["format"] == "safetensors":
        return (
            f"`{file}` holds the weights alone: `backbone.…` by the names of its library, and the "
            "heads. A run of lightning_ssl starts from it by\n\n```bash\nlightning-ssl fit --model "
            f"{described['method']} --model.backbone {described['backbone']} --model.weights "
            f"{file} --data.dataset folder --data.root photos\n```"
        )
    outputs = " and ".join(f"`{name}`" for name in described["outputs"])
    return (
        "```bash\npython predict.py photo.jpg\n```\n\nprints path, class, probability and, where "
        "it is known, the outlier score; the script needs nothing of lightning_ssl. The network "
        f"takes `images`, (batch, {described['input']['shape'][1]}, {described['size']}, "
        f"{described['size']}) in float32, any number at once, and returns {outputs}."
    )


def _outliers(described: Mapping[str, Any]) -> str:
    if described["outlier_threshold"] is None or "outlier_score" not in described["outputs"]:
        return ""
    return (
        " `outlier_score` is the cosine to the nearest labelled image; 5 % of the labelled images "
        f"are below {described['outlier_threshold']:.3f} themselves."
    )


def _calibrated(described: Mapping[str, Any]) -> str:
    if described["temperature"] == 1:
        return "The probabilities are not calibrated."
    return (
        f"The probabilities are calibrated on the validation images, by the temperature "
        f"{described['temperature']:.3f}, which is part of the network."
    )


def _licence(described: Mapping[str, Any]) -> str:
    found = weights_licence(described["backbone"])
    stated = (
        f" timm states `{found}` for the published weights of `{described['backbone']}`."
        if found
        else ""
    )
    return (
        "None is stated by whoever trained it. The weights come from the training images and, if "
        "training started from published weights, from those: what their owners ask for holds for "
        f"this file.{stated} lightning_ssl, which made it, is under the MIT licence."
    )
