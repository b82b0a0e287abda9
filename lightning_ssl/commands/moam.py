"""S4L's mix of all models: train, label all images, train on those labels, fine-tune."""

from pathlib import Path

from lightning_ssl.commands.sequence import fit_step, label_step, last, run_steps, table


def moam(
    run_dir: str = "runs/moam",
    common: str = "",
    step1: str = "",
    label: str = "",
    step2: str = "",
    step3: str = "",
    method1: str = "MOAM",
    method2: str = "MOAM",
    method3: str = "Supervised",
) -> None:
    """Run the three steps of https://arxiv.org/abs/1905.03670 and the labelling between them.

    In ``step1`` the first method is trained. It labels all training images, by the average of
    twenty views. In ``step2`` the second method goes on from its weights, with all those labels. In
    ``step3`` the third method goes on from there, with the labelled images alone.

    Options are texts of options as they would be typed. The same command goes on where it stopped,
    inside a step too. All options are read before the first step; those of steps that are not
    finished may still be changed.

    Args:
        run_dir: Folder of everything: a run folder for each step and ``pseudo_labels.csv``.
        common: Options of ``fit`` for all three steps: the data, the network, the seed.
        step1: Further options of ``fit`` in step 1.
        label: Options of ``pseudo-label``, which runs on the devices of step 1.
        step2: Further options of ``fit`` in step 2.
        step3: Further options of ``fit`` in step 3.
        method1: Method of step 1.
        method2: Method of step 2.
        method3: Method of step 3.
    """
    folder = Path(run_dir)
    first = fit_step(*_run(folder / "step1", method1, common, step1))
    second = fit_step(
        *_run(folder / "step2", method2, f"--data.pseudo_column averaged_label {common}", step2),
        *_weights(folder / "step1", same=method1 == method2),
        *("--data.pseudo_labels", str(table(folder))),
    )
    third = fit_step(
        *_run(folder / "step3", method3, common, step3),
        *_weights(folder / "step2", same=method2 == method3),
    )
    labelling = label_step(folder, ["step1"], label)
    run_steps(folder, "MOAM", [first, labelling, second, third])


def _run(folder: Path, method: str, common: str, own: str) -> tuple[Path, str, str, str]:
    return folder, method, f"{common} {own}", f"`common` and `{folder.name}`"


def _weights(folder: Path, same: bool) -> tuple[str, ...]:
    weights = ("--model.weights", str(last(folder)))
    # Another method has other heads; those of the same one all have to fit.
    return weights if same else (*weights, "--model.weights_strict", "false")
