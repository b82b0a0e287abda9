"""Numbers of papers and toolboxes that configs leave to the defaults of the methods."""

from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_ssl import methods
from lightning_ssl.cli.configs import find_config
from lightning_ssl.methods.corrections import ABCHead, LogitAdjustment, ProgressiveAlignment


def defaults(cls: type) -> dict[str, Any]:
    """What the arguments of a class are when nobody says anything, those of its bases included."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if "__init__" in vars(base):
            parameters = signature(base.__init__).parameters.values()  # type: ignore[misc]
            found |= {p.name: p.default for p in parameters if p.default is not Parameter.empty}
    return found


CONFIGS: dict[str, dict[str, Any]] = {
    "fixmatch": {"threshold": 0.95, "lambda_u": 1.0},
    "flexmatch": {"threshold": 0.95, "lambda_u": 1.0, "mapping": "convex", "warmup": True},
    "comatch": {
        **{"embedding_dim": 64, "temperature": 0.2, "lambda_u": 1.0, "lambda_c": 1.0},
        **{"threshold": 0.95, "smoothing": 0.9, "graph_threshold": 0.8},
        **{"bank_size": 5 * (64 + 448), "window": 32, "heads": 1},
    },
    "simmatch": {
        **{"embedding_dim": 128, "temperature": 0.1, "lambda_u": 1.0, "lambda_in": 1.0},
        **{"threshold": 0.95, "smoothing": 0.9, "bank_decay": 0.7, "window": 32, "heads": 1},
    },
    "crmatch": {"threshold": 0.95, "lambda_u": 1.0, "lambda_distance": 1.0, "lambda_rotation": 1.0},
    "defixmatch": {"threshold": 0.95, "lambda_u": 0.5},
    "refixmatch": {"threshold": 0.95, "lambda_u": 1.0, "temperature": 0.5},
    "sequencematch": {"threshold": 0.95, "lambda_u": 1.0, "temperature": 0.5},
    "regmixmatch": {
        **{"lambda_u": 1.0, "lambda_fairness": 0.01, "lambda_mix": 1.0, "lambda_cam": 1.0},
        **{"mix_threshold": 0.999, "alpha_mix": 1.0, "alpha_cam": 16.0, "clip": (0.0, 1.0)},
    },
    "pseudo_label": {"threshold": 0.95, "lambda_u": 1.0, "ramp": 0.4},
    "pi_model": {"lambda_u": 10.0, "ramp": 0.4},
    "mean_teacher": {"lambda_u": 50.0, "ramp": 0.4},
    "uda": {"threshold": 0.8, "temperature": 0.4, "annealing": None, "lambda_u": 1.0},
    "dash": {
        **{"gamma": 1.27, "rho_scale": 1.0001, "rho_min": 0.05},
        **{"temperature": 0.5, "lambda_u": 1.0},
    },
    "freematch": {"lambda_u": 1.0, "lambda_fairness": 0.001, "decay": 0.999, "clip": (0.0, 1.0)},
    "softmatch": {"lambda_u": 1.0, "n_sigma": 2.0, "decay": 0.999},
    "adamatch": {"threshold": 0.9, "window": 128, "simple": False, "ramp": 0.5, "lambda_u": 1.0},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_and_the_defaults_give_the_published_values(name: str) -> None:
    model = yaml.safe_load(Path(find_config(name)).read_text())["model"]
    options = defaults(getattr(methods, model["class_path"])) | model["init_args"]
    assert {option: options[option] for option in CONFIGS[name]} == CONFIGS[name]


@pytest.mark.parametrize(
    ("cls", "published"),
    [
        (LogitAdjustment, {"tau": 0.4, "labeled_tau": 1.0, "decay": 0.999}),
        (ProgressiveAlignment, {"final_power": 0.5, "window": 128}),
        (ABCHead, {"threshold": 0.95}),
        (methods.UDA, {"threshold": 0.8, "temperature": 0.4}),
        (methods.Dash, {"gamma": 1.27, "rho_scale": 1.0001, "rho_min": 0.05, "temperature": 0.5}),
        (
            methods.MixMatch,
            {"alpha": 0.75, "temperature": 0.5, "lambda_u": 75.0, "guess_views": 2, "ramp": 0.4},
        ),
    ],
)
def test_defaults_are_the_published_values(cls: type, published: dict[str, Any]) -> None:
    found = defaults(cls)
    assert {option: found[option] for option in published} == published
