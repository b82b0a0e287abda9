"""The shipped configs."""

from pathlib import Path

# A checkout has them beside the package, an installation inside it.
_PACKAGE = Path(__file__).parents[1]
CONFIGS = next(p for p in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if p.is_dir())


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
