"""Configs: the shipped ones by name, and what no config may be."""

import os
import re
from pathlib import Path

import yaml

from lightning_ssl.cli.hints import did_you_mean

_MOST_NODES = 100_000  # of a config in which every alias is written out

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
        ValueError: If it is no text in UTF-8, or holds itself.
    """
    path = os.path.expanduser(name)
    if os.path.isfile(path):  # which takes text that is too long for a name, too
        check_config(path)
        return path
    if any(sign in name for sign in "{:\n"):
        check_yaml(name, "`--config`")
        return name
    shipped = {path.stem: path for path in sorted(CONFIGS.rglob("*.yaml"))}
    if name not in shipped:
        raise FileNotFoundError(
            f"`--config` must be a file or one of {', '.join(sorted(shipped))}, got '{name}'."
            f"{did_you_mean(Path(name).stem, shipped)}"
        )
    return str(shipped[name])


def check_config(path: str) -> None:
    """Refuse a config file that no reader takes.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file; a pipe is none.
        ValueError: If it is no text in UTF-8, or holds itself.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"`--config` must be a file, got '{path}'.")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"`--config` '{path}' is no text in UTF-8: {error}.") from error
    check_yaml(text, f"`--config` '{path}'")


def check_yaml(text: str, name: str) -> None:
    """Refuse YAML that holds itself, which readers would unfold for ever.

    Args:
        text: The YAML.
        name: What it is called in messages.

    Raises:
        ValueError: If an alias stands inside what it stands for, or aliases multiply without end.
    """
    if "&" not in text or "*" not in text:
        return
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        return  # the parser reports it
    waiting, seen = [(root, 0)], 0
    above: list[int] = []
    while waiting:
        node, depth = waiting.pop()
        del above[depth:]
        seen += 1
        if id(node) in above or seen > _MOST_NODES:
            raise ValueError(f"{name} must be YAML without an anchor that holds its own alias.")
        above.append(id(node))
        if isinstance(node, yaml.MappingNode):
            waiting += [(part, depth + 1) for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(part, depth + 1) for part in node.value]
