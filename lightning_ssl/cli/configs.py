"""The shipped configs."""

import re
from pathlib import Path

# A checkout has them beside the package, an installation inside it.
_PACKAGE = Path(__file__).parents[1]
CONFIGS = next(p for p in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if p.is_dir())


def run_folder_of(path: str) -> str | None:
    """The run folder whose own config a file is; None for any other config.

    Args:
        path: A config by path, or YAML.

    Raises:
        ValueError: If it was written for a folder where it does not lie any more.
    """
    file = Path(path)
    if file.name != "config.yaml" or not file.is_file():
        return None
    found = re.search(r"^run_dir: (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None or found[1] == "null":
        return None
    written, folder = found[1].strip("'\""), file.parent
    if written != "." and Path(written).resolve() != folder.resolve():
        # By 0.1.0, whose records hold the name of their folder in many places.
        raise ValueError(
            f"`--config` '{path}' was written in the folder '{written}', which has been moved or "
            "copied since: move it back, or start from its weights by `model.weights`."
        )
    return str(folder)


def find_config(name: str) -> str:
    """Path of a config given by path, by short name or inline.

    Args:
        name: A path, or a shipped config's file name without folder and ending, or YAML.

    Raises:
        FileNotFoundError: If it looks like a name and is none.
    """
    if Path(name).is_file() or any(sign in name for sign in "{:\n"):
        return name
    shipped = {path.stem: path for path in sorted(CONFIGS.rglob("*.yaml"))}
    if name not in shipped:
        raise FileNotFoundError(
            f"`--config` must be a file or one of {', '.join(sorted(shipped))}, got '{name}'."
        )
    return str(shipped[name])
