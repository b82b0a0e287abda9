"""Print the lowest version that setup.cfg allows of every package, one `name==bound` a line."""

import re
from configparser import ConfigParser
from pathlib import Path

EXTRAS = ("parquet",)  # the tools of `dev` only run the tests, in whatever version


def lowest(setup: Path) -> list[str]:
    """The pins, in the order of the file."""
    config = ConfigParser()
    config.read(setup)
    listed = [config["options"]["install_requires"]]
    listed += [config["options.extras_require"][extra] for extra in EXTRAS]
    pins = []
    for line in "".join(listed).strip().splitlines():
        requirement = line.split("#")[0].strip()
        found = re.match(r"([\w-]+)(?:\[[\w,]+\])?>=([\w.]+)", requirement)
        if found is None:
            raise ValueError(f"{setup} must give every package a lower bound, got {requirement!r}.")
        pins.append(f"{found[1]}=={found[2]}")
    return pins


if __name__ == "__main__":
    print("\n".join(lowest(Path(__file__).parents[2] / "setup.cfg")))
