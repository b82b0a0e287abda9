"""What tests of several commands share."""

from typing import Any

import pytest
import torch

from lightning_ssl.models import build_backbone


@pytest.fixture
def network() -> Any:
    """A network without pre-training, whose weights lie in `network.pt`."""
    torch.manual_seed(0)
    made = build_backbone("wrn_10_1")
    torch.save(made.state_dict(), "network.pt")
    return made.eval()
