"""Files that appear only when they are complete."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """Write a file under another name, and rename it when the block ends without an error.

    A reader never sees half a file, and after an error the old file, if any, is still there.

    Args:
        path: The file; its folder is made where missing.

    Yields:
        The name to write to.
    """
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
    os.close(handle)
    try:
        yield temporary
        umask = os.umask(0)  # there is no way to ask for it without setting it
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's file is for its owner alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
