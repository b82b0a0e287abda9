"""Networks with published weights: what they want to see, and weights that come as packages."""

from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.data import create_transform, resolve_model_data_config
from torch import nn

from lightning_ssl.models import backbone_inputs, build_backbone
from lightning_ssl.models.pretrained import PACKAGED, packaged_weights


@pytest.mark.parametrize(
    ("name", "options", "in_channels"),
    [
        ("tf_efficientnet_lite0", {}, 3),
        ("tf_efficientnet_lite2.in1k", {}, 3),
        ("vit_small_patch14_dinov2.lvd142m", {}, 3),
        ("vit_small_patch14_dinov2.lvd142m", {"img_size": 224}, 3),
        ("vit_base_patch16_clip_224.openai", {}, 1),
        ("resnet18", {"pretrained_cfg_overlay": {"crop_pct": 0.5, "mean": (0.1, 0.2, 0.3)}}, 3),
    ],
)
def test_timm_says_the_same(name: str, options: dict[str, Any], in_channels: int) -> None:
    found = backbone_inputs(f"timm/{name}", options, in_channels)
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0, **options)
    wanted = resolve_model_data_config(model)
    size = options.get("img_size", wanted["input_size"][-1])  # timm forgets it
    assert (found["image_size"], found["crop_pct"]) == (size, wanted["crop_pct"])
    assert found["interpolation"] == wanted["interpolation"]
    for key in ("mean", "std"):
        values = wanted[key] if in_channels == 3 else [sum(wanted[key]) / 3]
        assert found[key] == pytest.approx(list(values), abs=1e-12)


def test_torchvision_says_the_same() -> None:
    weights = torchvision.models.ResNet50_Weights.DEFAULT.transforms()
    found = backbone_inputs("resnet50")
    assert found["image_size"] == weights.crop_size[0] == 224
    assert int(224 / found["crop_pct"] + 1e-6) == weights.resize_size[0] == 232
    assert (found["interpolation"], found["mean"]) == ("bilinear", weights.mean)


@pytest.mark.parametrize("name", ["wrn_28_2", "timm/test_vit_no_such", "resnet20_v2"])
def test_other_networks_want_nothing(name: str) -> None:
    assert backbone_inputs(name) == {}


@pytest.mark.parametrize("backbone", PACKAGED)
def test_a_package_classifies_as_the_original(backbone: str) -> None:
    """The order of tensors is right only if each finds its layer; random weights know no class."""
    name = backbone.removeprefix("timm/")
    state = packaged_weights(name)
    assert state is not None
    model = timm.create_model(name, num_classes=1000)
    model.load_state_dict(state)
    photo = torch.from_numpy(_photo()).permute(2, 0, 1)[None].float() / 255
    size = model.pretrained_cfg["input_size"][-1]
    image = nn.functional.interpolate(photo, (size, size), mode="bicubic", antialias=True)
    features = build_backbone(backbone, pretrained=True).eval()((image - 0.5) / 0.5)
    with torch.no_grad():
        logits = model.eval()((image - 0.5) / 0.5)
        assert torch.equal(model.get_classifier()(features), logits)
        probs = logits.softmax(dim=1)[0]
    assert PALACE in probs.topk(3).indices
    assert "state_dict" not in build_backbone(backbone, pretrained=True).pretrained_cfg


PALACE = 698  # class of ImageNet that scikit-learn's photo shows


def _photo() -> Any:
    from sklearn.datasets import load_sample_image

    return load_sample_image("china.jpg")


def test_gray_images_are_seen_as_gray_colours() -> None:
    gray = build_backbone(PACKAGED[0], in_channels=1, pretrained=True).eval()
    colour = build_backbone(PACKAGED[0], pretrained=True).eval()
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            gray(image), colour(image.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4
        )


def test_weights_that_cannot_be_fetched_are_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **options: Any) -> None:
        raise FileNotFoundError("An error happened.\nPlease check.")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(FileNotFoundError, match=r"timm/resnet18.*An error happened\. Give a file"):
        build_backbone("timm/resnet18", pretrained=True)


@pytest.mark.parametrize(
    ("module", "options", "match"),
    [
        (nn.Linear(2, 3), {}, "must have `num_features`.*Linear with None"),
        (nn.Sequential(), {"bn_momentum": 0.1}, "`backbone_args` must be null"),
        (nn.Sequential(), {"pretrained": True}, "`backbone_args` must be null"),
    ],
)
def test_a_module_of_ones_own(module: nn.Module, options: dict[str, Any], match: str) -> None:
    if options:
        module.num_features = 3  # type: ignore[assignment]
        assert build_backbone(module) is module
    with pytest.raises(ValueError, match=match):
        build_backbone(module, **options)


def test_evaluation_is_cut_as_timm_cuts_it() -> None:
    from PIL import Image
    from torchvision.transforms import functional as tv

    from lightning_ssl.data.sources.decoding import resize_center

    photo = Image.fromarray(_photo())
    for share, size in ((0.875, 224), (1.0, 98), (0.95, 160)):
        cut = create_transform((3, size, size), crop_pct=share, interpolation="bicubic")
        expected = cut.transforms[1](cut.transforms[0](photo))
        got = resize_center(photo, size, share, "bicubic")
        # timm resizes whole photos and cuts then; at most the rounding of the scale differs.
        gap = (tv.pil_to_tensor(got).float() - tv.pil_to_tensor(expected).float()).abs()
        assert gap.mean() < 2
        assert got.size == (size, size)
