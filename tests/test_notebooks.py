"""The notebooks of docs/notebooks run, and what is stored with them came of one whole run."""

import json
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
# As printed, but short.
SHORT = {
    r"max_steps=\d+": "max_steps=3",
    r'("--trainer.max_steps",) "\d+"': r'\1 "3"',
    r"(--trainer.max_steps) \d+": r"\1 3",
    r"train\(method, \d+\)": "train(method, 3)",
    r'("--seeds",) "2"': r'\1 "1"',
    r'("--data.image_size",) "96"': r'\1 "32"',
}


def cells(notebook: Path) -> list[dict[str, Any]]:
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("short", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, short: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    plt.switch_backend("agg")
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    scope: dict[str, Any] = {"__name__": "notebook"}
    for cell in cells(notebook):
        text = "".join(cell["source"])
        for long, brief in SHORT.items() if short else ():
            text = re.sub(long, brief, text)
        exec(compile(text, notebook.name, "exec"), scope)
    plt.close("all")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored_came_of_one_whole_run(notebook: Path) -> None:
    found = cells(notebook)
    assert [cell["execution_count"] for cell in found] == list(range(1, len(found) + 1))
    outputs = [output for cell in found for output in cell["outputs"]]
    assert outputs
    assert {output["output_type"] for output in outputs} <= {
        "stream",
        "execute_result",
        "display_data",
    }
    assert "stderr" not in {output.get("name") for output in outputs}
    assert not re.search(r"/(tmp|home|root|Users)/", json.dumps(outputs))
