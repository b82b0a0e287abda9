"""V-PET: several models learn the labels, vote on all images, and one student learns the votes."""

from pathlib import Path

from lightning_ssl.commands.sequence import fit_step, label_step, run_steps, table


def vpet(
    teachers: list[str],
    run_dir: str = "runs/vpet",
    common: str = "",
    label: str = "",
    student: str = "",
    method: str = "Supervised",
) -> None:
    """Run the steps of https://arxiv.org/abs/2503.09707: teachers, their votes, a student.

    Each teacher is trained on the labelled images alone. Together they label all training images,
    by the mean of their votes. The student, which starts as anew as they did, learns these soft
    labels from a weak and a strong view, and the given labels where there are some.

    Options are texts of options as they would be typed. The same command goes on where it stopped,
    inside a step too. All options are read before the first step; those of steps that are not
    finished may still be changed.

    Args:
        teachers: Options of ``fit`` for each teacher, such as its network and adapter:
            ``["--model.backbone resnet18", "--model.backbone wrn_28_2"]``.
        run_dir: Folder of everything: a run folder for each teacher, ``teacher1`` and so on,
            ``pseudo_labels.csv`` and the run folder ``student``.
        common: Options of ``fit`` for teachers and student: the data, the length, the seed.
        label: Options of ``pseudo-label``, which runs on the devices of the first teacher.
        student: Further options of ``fit`` for the student.
        method: Method of the teachers.
    """
    if len(teachers) < 2:
        raise ValueError(f"`teachers` must be options of two runs at least, got {len(teachers)}.")
    folder = Path(run_dir)
    fits = [
        fit_step(
            folder / f"teacher{number}",
            *(method, f"{common} {options}", f"`common` and text {number} of `teachers`"),
        )
        for number, options in enumerate(teachers, start=1)
    ]
    learner = fit_step(
        folder / "student",
        *("Supervised", f"{common} {student}", "`common` and `student`"),
        *("--model.soft_targets", "true", "--data.pseudo_column", "soft"),
        *("--data.pseudo_labels", str(table(folder))),
    )
    labelling = label_step(folder, [step.name for step in fits], label)
    run_steps(folder, "V-PET", [*fits, labelling, learner])
