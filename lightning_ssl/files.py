"""Files that appear only when they are complete, and folders with one writer."""

import errno
import io
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

import torch

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

    Raises:
        OSError: If it cannot be written, such as on a full disk; it names the file.
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
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError) and error.filename in (None, temporary):
            raise _naming(error, path) from error
        raise


def _naming(error: OSError, path: str | os.PathLike[str]) -> OSError:
    """The error with the file, which a failed write does not name."""
    return OSError(f"'{os.fspath(path)}' cannot be written: {error.strerror or error}.")


@contextmanager
def making_folder(path: str | os.PathLike[str]) -> Iterator[str]:
    """Fill a folder under another name, and rename it when the block ends without an error.

    Args:
        path: The folder, which is missing or empty, see :func:`check_new_folder`; the one that it
            is to be in is made where missing.

    Yields:
        The name to write below.

    Raises:
        OSError: If it cannot be written, such as on a full disk.
    """
    folder = os.path.abspath(path)
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=os.path.dirname(folder), prefix=f"{os.path.basename(folder)}.", suffix=".tmp"
    ) as temporary:
        inside = os.path.join(temporary, "made")  # which the umask makes as any other folder
        os.mkdir(inside)
        yield inside
        for name in os.listdir(inside):
            _flush(os.path.join(inside, name))
        if os.path.isdir(folder):
            os.rmdir(folder)
        os.rename(inside, folder)


def check_new_folder(path: str | os.PathLike[str], argument: str) -> None:
    """See that a folder can be made, before the work whose result it is.

    Args:
        path: The folder.
        argument: Name of the argument that gave it, for messages.

    Raises:
        ValueError: If it cannot be made, or holds something; nothing is left on the disk.
    """
    if os.path.isdir(path) and not os.listdir(path):
        return
    reason = "it is not empty" if os.path.isdir(path) else _why_not(path)
    if reason:
        raise ValueError(
            f"`{argument}` must be a folder that is empty or can be made, got "
            f"'{os.fspath(path)}': {reason}."
        )


@contextmanager
def appending(path: str | os.PathLike[str]) -> Iterator[io.TextIOWrapper]:
    """Add rows to the end of a CSV file in UTF-8; after an error none of them is there.

    Args:
        path: The file, which is there already.

    Yields:
        The file.

    Raises:
        OSError: If it cannot be written, such as on a full disk; it names the file.
    """
    size = os.path.getsize(path)
    try:
        with open(path, "a", newline="", encoding="utf-8") as file:
            yield file
    except OSError as error:
        with suppress(OSError):
            os.truncate(path, size)
        raise _naming(error, path) from error


def save(value: Any, path: str | os.PathLike[str]) -> None:
    """Write a file of ``torch.save``; it appears when it is complete.

    Args:
        value: What to write.
        path: The file; its folder is made where missing.

    Raises:
        OSError: If it cannot be written, such as on a full disk; it names the file.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:  # PyTorch's, which says nothing of what the system said
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
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


@contextmanager
def writing_text(
    path: str | os.PathLike[str], newline: str | None = None
) -> Iterator[io.TextIOWrapper]:
    """Write a text in UTF-8 in every locale; the file appears when it is complete.

    Args:
        path: The file; its folder is made where missing.
        newline: See :func:`open`; empty for CSV.

    Yields:
        The file. What is no text in any encoding is written with a backslash.
    """
    with (
        replacing(path) as temporary,
        open(temporary, "w", newline=newline, encoding="utf-8", errors="backslashreplace") as file,
    ):
        yield file


def printable(name: str) -> str:
    r"""A file's name as text that every text file can hold.

    Args:
        name: As the system gives it: in an ASCII locale a name in UTF-8 is no text yet, and a name
            that is not UTF-8 is none anywhere; its odd bytes are written as ``\xff``.
    """
    try:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # text that never was the name of a file here
        return name.encode("utf-8", "backslashreplace").decode("utf-8")


def as_name(text: str) -> str:
    """A file's name as the system gives it, from text.

    Args:
        text: What a text file says.
    """
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def check_output(path: str | os.PathLike[str], argument: str) -> None:
    """See that a file can be written, before the work whose result it is.

    Args:
        path: The file; its folder may be missing.
        argument: Name of the argument that gave it, for messages.

    Raises:
        ValueError: If it cannot be written; nothing is left on the disk.
    """
    reason = _why_not(path)
    if reason:
        raise ValueError(
            f"`{argument}` must be a file that can be written, got '{os.fspath(path)}': {reason}."
        )


def check_output_folder(path: str | os.PathLike[str], argument: str, names: Sequence[str]) -> None:
    """See that files can be written to a folder, before the work whose results they are.

    Args:
        path: The folder; it may be missing.
        argument: Name of the argument that gave it, for messages.
        names: The files, relative to the folder.

    Raises:
        ValueError: If one cannot be written; nothing is left on the disk.
    """
    for name in names:
        reason = _why_not(os.path.join(path, name))
        if reason:
            raise ValueError(
                f"`{argument}` must be a folder that can be written to, got '{os.fspath(path)}': "
                f"'{name}' in it: {reason}."
            )


def _why_not(path: str | os.PathLike[str]) -> str:
    """Why a file cannot be written; nothing where it can."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        if os.path.isdir(path) or not os.path.basename(path):
            return "it is a folder"
        if os.path.exists(path) and not os.path.isfile(path):
            return "it is no regular file"  # which a rename would take the place of
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path)  # which refuses a name that is too long
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        if not os.path.isdir(folder):
            return f"'{folder}' is no folder"
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)


@contextmanager
def waiting_lock(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let one process at a time into a block; others wait. Without effect where there are no locks.

    Args:
        path: File that the lock is on; it is made, with its folder, and stays.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "ab") as file:
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
