"""Embeddings of evaluated images: plots while training, and of a checkpoint."""

import csv
import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Callback, LightningDataModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, default_collate

from lightning_ssl.callbacks import Embeddings, ProjectionPlot
from lightning_ssl.cli import main, run
from lightning_ssl.data import SSLDataModule, open_source
from lightning_ssl.methods import Supervised

from runs import differences, fit, load

PLOT = ("--trainer.callbacks+=ProjectionPlot",)
STATES = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")


def projector(folder: str) -> tuple[np.ndarray, list[str]]:
    """What TensorBoard's projector would show: the vectors and their labels."""
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    text = Path(folder, "projector_config.pbtxt").read_text()
    (info,) = text_format.Parse(text, ProjectorConfig()).embeddings
    vectors = np.loadtxt(Path(folder, info.tensor_path), delimiter="\t", dtype=np.float32)
    return vectors, Path(folder, info.metadata_path).read_text().splitlines()


def figures(folder: str) -> dict[int, Image.Image]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(folder, {"images": 0}).Reload().Images("projection")
    return {e.step: Image.open(io.BytesIO(e.encoded_image_string)) for e in events}


def plots(run_dir: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(run_dir, "projection").iterdir()}


def labels(folder: str) -> list[list[str]]:
    with Path(folder, "labels.csv").open() as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_last_plot_is_that_of_the_checkpoint(precision: str) -> None:
    cli = fit("FixMatch", "a", 4, *PLOT, "--trainer.precision", precision,
              "--trainer.val_check_interval", "2", "--model.ema_decay", "0.9")  # fmt: skip
    checkpoint = "a/checkpoints/last.ckpt"
    main(["project", "--ckpt_path", checkpoint])
    embeddings = np.load("projection/embeddings.npy")
    # The averaged weights, in plain steps: scale, normalise, embed.
    source = cli.datamodule.source
    module = type(cli.model).load_from_checkpoint(checkpoint).eval()
    mean, std = (torch.tensor(v)[:, None, None] for v in (source.mean, source.std))
    with torch.no_grad():
        expected = module.embed((source.test.pixels / 255 - mean) / std)
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    targets = source.test.targets.tolist()
    assert labels("projection") == [
        ["index", "class"], *([str(i), source.classes[t]] for i, t in enumerate(targets)),
    ]  # fmt: skip
    vectors, names = projector("projection/projector")
    assert names == [source.classes[t] for t in targets]
    np.testing.assert_array_equal(vectors, embeddings)

    written = plots("a")
    assert set(written) == {"step_2.png", "step_4.png"}
    assert written["step_2.png"] != written["step_4.png"]
    logged = figures("a")
    assert set(logged) == {2, 4}
    with Image.open("a/projection/step_4.png") as plot:
        small = np.asarray(plot.convert("RGB").resize(logged[4].size), dtype=float)
    # How letters and edges are drawn at another size depends on the versions of the libraries.
    off = {step: np.abs(small - np.asarray(shown)).mean() for step, shown in logged.items()}
    assert off[4] < 0.85 * off[2], off
    in_training, names = projector("a")
    assert names == [source.classes[t] for t in targets]
    if precision == "32-true":
        np.testing.assert_array_equal(in_training, embeddings)
        assert written["step_4.png"] == Path("projection/projection.png").read_bytes()
    else:
        np.testing.assert_allclose(in_training, embeddings, atol=0.05)
        assert not np.array_equal(in_training, embeddings)


def test_a_projection_replaces_the_one_before(capfd: pytest.CaptureFixture[str]) -> None:
    fit("Supervised", "a", 2)
    project = ("project", "--ckpt_path", "a/checkpoints/last.ckpt", "--output", "deep/out")
    run(project)
    assert len(np.load("deep/out/embeddings.npy")) == 360
    run([*project, "--max_images", "50"])
    said = capfd.readouterr()
    assert "warning: Embedding dir" not in said.out
    assert "Written to deep/out: 50 test images" in said.out
    embeddings = np.load("deep/out/embeddings.npy")
    vectors, names = projector("deep/out/projector")
    np.testing.assert_array_equal(vectors, embeddings)
    rows = labels("deep/out")[1:]
    assert [name for _, name in rows] == names
    index = [int(number) for number, _ in rows]
    assert len(set(index)) == 50
    assert index == sorted(index)
    assert index[-1] > 300


def write_images(root: str, layout: dict[str, int]) -> None:
    generator = np.random.default_rng(0)
    for part, count in layout.items():
        Path(root, part).mkdir(parents=True)
        for i in range(count):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(root, part, f"{i}.png"))


def test_data_that_moved_and_its_parts(capsys: pytest.CaptureFixture[str]) -> None:
    write_images("old", {"labeled/a": 3, "labeled/b": 3, "unlabeled": 2, "val/a": 2, "val/b": 3})
    fit("Supervised", "run", 2, "--data.dataset", "folder", "--data.root", "old",
        "--data.num_labels", "6")  # fmt: skip
    shutil.move("old", "new")
    project = ("project", "--ckpt_path", "run/checkpoints/last.ckpt", "--part", "val")
    with pytest.raises(SystemExit):
        main(project)
    said = capsys.readouterr().err
    assert "`root`" in said
    assert "'old'" in said
    assert not Path("projection").exists()
    run([*project, "--root", "new"])
    assert labels("projection")[1:] == [["0", "a"], ["1", "a"], ["2", "b"], ["3", "b"], ["4", "b"]]
    with pytest.raises(SystemExit):
        main(["project", "--ckpt_path", "run/checkpoints/last.ckpt", "--root", "new"])
    assert "has no test images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (("--ckpt_path", "none.ckpt"), ("`ckpt_path`", "'none.ckpt'")),
        (("--ckpt_path", "best"), ("`ckpt_path`", "'best'")),
        (("--ckpt_path", "text"), ("`ckpt_path`", "'text'", "no checkpoint")),
        (("--ckpt_path", "foreign.ckpt"), ("`ckpt_path`", "'foreign.ckpt'", "SSLDataModule")),
        (("--ckpt_path", "text", "--output", "text"), ("`output`", "'text'")),
        (("--ckpt_path", "text", "--part", "train"), ("part", "'test', 'val'", "train")),
        (("--ckpt_path", "text", "--outpt", "a"), ("--outpt",)),
        ((), ("ckpt_path", "required")),
    ],
)
def test_bad_input(
    args: tuple[str, ...], parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text").write_text("no checkpoint")
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.4"}, "foreign.ckpt")
    with pytest.raises(SystemExit) as stopped:
        main(["project", *args])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert [part for part in parts if part not in said] == [], said
    assert not Path("projection").exists()


@pytest.mark.parametrize(
    ("callback", "options", "message"),
    [
        (Embeddings, {"max_images": 1}, "`max_images` must be at least 2, got 1."),
        (ProjectionPlot, {"max_images": 0}, "`max_images` must be at least 2, got 0."),
        (
            *(ProjectionPlot, {"every_n_validations": 0}),
            "`every_n_validations` must be at least 1, got 0.",
        ),
    ],
)
def test_options_out_of_range(
    callback: Callable[..., Any], options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        callback(**options)


def test_plots_leave_training_alone() -> None:
    options = ("--trainer.val_check_interval", "2", "--trainer.num_sanity_val_steps", "2",
               "--model.threshold", "0.15")  # fmt: skip
    fit("FixMatch", "plain", 6, *options)
    fit("FixMatch", "plotted", 6, *options, *PLOT, "--trainer.callbacks.every_n_validations", "2",
        "--trainer.callbacks.max_images", "30")  # fmt: skip
    plain, plotted = load("plain"), load("plotted")
    assert [d for n in STATES for d in differences(plain[n], plotted[n], n)] == []
    assert set(plots("plotted")) == {"step_4.png"}  # the second of three; no sanity check
    assert set(figures("plotted")) == {4}
    assert len(projector("plotted")[0]) == 30
    assert not Path("plain/projection").exists()


class Watch(Callback):
    """Keep the states of the generators around every validation."""

    def __init__(self) -> None:
        self.states: list[tuple[Any, ...]] = []

    def on_validation_start(self, *args: Any) -> None:
        self.states.append((random.getstate(), str(np.random.get_state()), torch.get_rng_state()))

    on_validation_end = on_validation_start


def train(data: Any, *callbacks: Callback, steps: int = 2, **options: Any) -> Trainer:
    trainer = Trainer(
        max_steps=steps, callbacks=list(callbacks), enable_checkpointing=False,
        accelerator="cpu", enable_model_summary=False, enable_progress_bar=False,
        check_val_every_n_epoch=None, val_check_interval=steps, **options,
    )  # fmt: skip
    trainer.fit(Supervised(10, backbone="wrn_10_1", ema_decay=0.5), data)
    return trainer


def digits(**options: Any) -> SSLDataModule:
    return SSLDataModule("digits", num_labels=20, batch_size=8, **options)


def test_plots_draw_no_random_numbers() -> None:
    plot = ProjectionPlot()

    class Last(Watch):
        pass

    first, last = Watch(), Last()
    train(digits(), first, plot, last, num_sanity_val_steps=0, logger=False)
    assert len(plot.features) == 360
    assert differences(first.states[0], last.states[1]) == []


def test_a_resumed_run_plots_what_the_whole_run_plots() -> None:
    options = (*PLOT, "--trainer.callbacks.every_n_validations", "2",
               "--trainer.callbacks+=RunCheckpoint", "--trainer.callbacks.filename", "each",
               "--trainer.callbacks.every_n_train_steps", "1",
               "--trainer.val_check_interval", "1")  # fmt: skip
    fit("Supervised", "whole", 6, *options)
    with pytest.raises(SystemExit):
        fit("Supervised", "cut", 6, *options, "--trainer.callbacks+=probes.Die",
            "--trainer.callbacks.step", "3")  # fmt: skip
    fit("Supervised", "resumed", 6, *options, "--ckpt_path", "cut/checkpoints/each.ckpt")
    assert set(plots("cut")) == {"step_2.png"}
    assert plots("cut") | plots("resumed") == plots("whole")
    assert set(plots("resumed")) == {"step_4.png", "step_6.png"}
    np.testing.assert_array_equal(projector("resumed")[0], projector("whole")[0])


@pytest.mark.ddp
def test_two_ranks_plot_what_one_plots(two_ranks: Any) -> None:
    # Sums in another order would move points; float64 leaves less than a pixel can show.
    options = (*PLOT, "--trainer.callbacks.max_images", "101",
               "--model.backbone_args", "{norm: none, bn_momentum: 0.1}",
               "--trainer.precision", "64-true", "--trainer.val_check_interval", "2")  # fmt: skip
    fit("FixMatch", "one", 4, *options)
    ddp = ("--trainer.strategy", "ddp", "--trainer.devices", "2")
    two_ranks.run(_fit, "FixMatch", "two", 4, *options, *ddp)
    assert plots("one") == plots("two")
    assert set(plots("two")) == {"step_2.png", "step_4.png"}
    (vectors, names), (expected, expected_names) = projector("two"), projector("one")
    assert names == expected_names
    assert len(names) == 101
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)
    assert set(figures("two")) == {2, 4}


def _fit(*args: Any) -> None:
    fit(*args)


def test_images_held_out_from_training() -> None:
    found = Embeddings()
    data = digits(val_per_class=1)
    train(data, found, logger=False)
    assert found.stage == "val"
    assert torch.equal(found.index, data.split.val)
    assert torch.equal(found.targets, data.source.train.targets[data.split.val])


class Foreign(LightningDataModule):
    """Another project's data: ordinary loaders, no class names."""

    def __init__(self) -> None:
        super().__init__()
        source = open_source("digits")
        images = source.test.pixels / 255
        self.samples = list(zip(images, source.test.targets, range(360), strict=True))

    def train_dataloader(self) -> Any:
        return DataLoader(self.samples, batch_size=8, collate_fn=self.collate)

    def val_dataloader(self) -> Any:
        return DataLoader(self.samples, batch_size=50)

    def collate(self, samples: Any) -> Any:
        images, targets, _ = default_collate(samples)
        return {"step": 0, "labeled": {"views": {"weak": images[None]}, "target": targets}}


def test_without_our_data_the_first_images_are_plotted() -> None:
    plot = ProjectionPlot(max_images=70)
    logger = TensorBoardLogger("out", name="", version="")
    train(Foreign(), plot, logger=logger)
    assert plot.index.tolist() == list(range(70))
    assert set(plots("out")) == {"step_2.png"}
    assert projector("out")[1] == [str(target) for target in plot.targets.tolist()]


class Spoil(Callback):
    """Make the features NaN for the time of a validation."""

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        self.hook = module.backbone.register_forward_hook(lambda *args: args[2] * float("nan"))

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        self.hook.remove()


def test_features_that_cannot_be_drawn_do_not_end_the_run(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="No projection was drawn at update 2.*finite"):
        trainer = train(digits(), Spoil(), ProjectionPlot(), logger=False,
                        default_root_dir=tmp_path / "out")  # fmt: skip
    assert trainer.global_step == 2
    assert list((tmp_path / "out" / "projection").iterdir()) == []


def test_testing_after_training_draws_nothing() -> None:
    plot = ProjectionPlot()
    trainer = train(digits(), plot, logger=False)
    before = plots(".")
    plot.features = torch.empty(0, 0)
    trainer.test(trainer.lightning_module, digits(), verbose=False)
    trainer.validate(trainer.lightning_module, digits(), verbose=False)
    assert plots(".") == before
    assert len(plot.features) == 0
