"""File locks between the processes of one machine, of any user. Imports no torch."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlssl.errors import ConfigError


def folder() -> Path:
    """The folder of the locks: MLSSL_GPU_SLOTS, or a folder of this machine that all users can write to."""
    path = Path(os.environ.get("MLSSL_GPU_SLOTS") or Path(tempfile.gettempdir()) / "mlssl-gpu-slots")
    if not path.exists():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o1777)
    return path


def opened(path: Path) -> int:
    """A descriptor of the file, which is created if it is missing; ConfigError if this user may not open it.

    A file that exists is opened without O_CREAT and for reading, which is enough for a lock: in a folder such as
    /tmp, Linux refuses O_CREAT for a file of another user, whatever its mode (sysctl fs.protected_regular).
    """
    while True:
        try:
            return os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            pass
        except PermissionError:
            raise ConfigError(
                f"{path}: belongs to another user, who has not made it readable; set MLSSL_GPU_SLOTS to a folder "
                "that all users of this machine's GPUs share"
            ) from None
        before = os.umask(0)
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue  # another process was faster
        finally:
            os.umask(before)


def locked(path: Path) -> int | None:
    """The descriptor of the locked file, or None if another process has the lock."""
    file = opened(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


@contextmanager
def alone(name: str) -> Iterator[None]:
    """A context in which no other process of this machine is inside the same `name`; waits for it."""
    file = opened(folder() / name.replace("/", "-"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)  # which also unlocks it
