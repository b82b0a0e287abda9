"""Files that appear only when they are complete, and folders with one writer."""

import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


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
    handle, temporary = tempfile.mkstemp(
        dir=folder, prefix=f"{os.path.basename(path)}.", suffix=".tmp"
    )
    os.close(handle)
    try:
        yield temporary
        umask = os.umask(0)  # there is no way to ask for it without setting it
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's file is for its owner alone
        _flush(temporary)  # else a crash of the machine may leave the new name with nothing in it
        os.replace(temporary, path)
        _flush(folder)
    except BaseException:
        os.unlink(temporary)
        raise


def _flush(path: str) -> None:
    """Wait until a file or the names in a folder are on disk, where the system can do that."""
    if os.path.isdir(path) and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems do not know it
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


class FolderLock:
    """The right to write to a folder, of one process at a time.

    The system holds it and gives it back however the process ends, so that there is no stale lock;
    the file ``run.lock`` says who has or had it. Where the system has no such locks, everybody gets
    the right.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = os.path.join(folder, "run.lock")
        self._file: IO[str] | None = None

    def acquire(self, create: bool = True) -> None:
        """Take it, unless this object has it already.

        Args:
            create: Whether to make the folder and the file where they are missing; if not, nothing
                is changed on disk.

        Raises:
            BlockingIOError: If another process has it.
        """
        if fcntl is None or (not create and not os.path.isfile(self.path)):
            return
        if self._file is None:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            file = open(self.path, "a+" if create else "r+", encoding="utf-8")  # noqa: SIM115
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read().strip() or "another process"
                file.close()
                folder = os.path.dirname(self.path)
                raise BlockingIOError(
                    f"`run_dir` '{folder}' is being written to by {owner}: wait for its end, or "
                    "give another folder."
                ) from None
            except OSError:  # a file system without locks
                file.close()
                return
            self._file = file
        if create:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            self._file.flush()

    def release(self) -> None:
        """Give it back."""
        if self._file is not None:
            self._file.close()
            self._file = None
