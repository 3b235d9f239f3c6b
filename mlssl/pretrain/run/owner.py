"""One trainer per run: a lease in the state folder, which an orphaned trainer loses to the one that replaces it.

The lease (`owner.lease`) names its holder; its first line is a number that the holder raises a few times per lease
time. Who waits for it watches by its own monotonic clock whether the number still moves: no two machines' clocks
are compared, and one that jumps is not noticed. Every write to the run's folders is made within `Owner.writing`,
which holds a file lock for that instant and looks whether the lease is still its own.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LEASE = 60.0
"""Seconds for which a lease must stand still before another trainer takes it."""

BEATS = 6
"""How often the holder renews it in that time."""

NOT_OWNER = 73
"""Exit code (EX_CANTCREAT of sysexits.h) of a trainer whose run was taken over: it must not be started again."""


class Busy(RuntimeError):
    """Another trainer is at work on this run."""


class Taken(RuntimeError):
    """Another trainer has taken this run over; nothing more may be written."""


class Owner:
    """The right to write a run's folders, while it lasts. Made by `own`."""

    def __init__(self, folder: Path, lease: float) -> None:
        self.path, self.lease = Path(folder) / "owner.lease", lease
        self.token = uuid.uuid4().hex
        self._lock = FileLock(self.path.with_suffix(".lock"), timeout=lease)
        self._file: int | None = None
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lease", daemon=True)

    def check(self) -> None:
        """Raises Taken if the lease is not ours any more."""
        holder = told(read(self.path))
        if holder.get("token") != self.token:
            by = f"by {name(holder)}" if holder else "and has ended since"
            raise Taken(f"{self.path.parent}: the run was taken over {by}; this trainer stops and writes nothing")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Within, nobody takes the run over; keep it short. Raises Taken if somebody has."""
        with self._locked():
            self.check()
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except Timeout:
            raise Busy(
                f"{self._lock.lock_file}: locked by a process that does not go on; end it and run the command again"
            ) from None

    def _acquire(self) -> None:
        began = still_since = time.monotonic()
        seen, waiting = None, False
        while True:
            with self._locked():
                there, now = read(self.path), time.monotonic()
                if there != seen:
                    seen, still_since = there, now
                if not there or dead(told(there)) or now - still_since >= self.lease:
                    self._take()
                    return
            if now - began >= 2 * self.lease:
                raise Busy(
                    f"{self.path.parent}: {name(told(there))} is training this run; wait until it ends, or end it"
                )
            if not waiting:
                print(
                    f"{self.path.parent}: {name(told(there))} has this run; "
                    f"waiting {self.lease:g} to {2 * self.lease:g} s for a sign that it has ended",
                    file=sys.stderr,
                )
                waiting = True
            time.sleep(min(1.0, self.lease / 20))

    def _take(self) -> None:
        me = {
            "host": platform.node(),
            "pid": os.getpid(),
            "machine": machine(),
            "born": born(os.getpid()),
            "token": self.token,
        }
        part = self.path.with_name(f".{self.path.name}.{self.token}.part")
        try:
            # Kept open: a beat goes to this very file, never to that of a trainer which has put its own in place.
            self._file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(self._file, beat(0) + json.dumps(me).encode() + b"\n")
            os.fsync(self._file)
            os.replace(part, self.path)
        finally:
            part.unlink(missing_ok=True)
        self._heart.start()

    def _beat(self) -> None:
        beats, told_why = 0, None
        while not self._ended.wait(self.lease / BEATS):
            beats += 1
            try:
                os.pwrite(self._file, beat(beats), 0)
                os.fsync(self._file)
            except OSError as error:
                if told_why != str(error):
                    print(f"{self.path}: the lease cannot be renewed ({error}); trying again", file=sys.stderr)
                told_why = str(error)

    def _release(self) -> None:
        self._ended.set()
        if self._file is None:
            return
        if self._heart.is_alive():
            self._heart.join()
        os.close(self._file)
        with self._locked():
            if told(read(self.path)).get("token") == self.token:
                self.path.unlink()


@contextmanager
def own(folder: Path) -> Iterator[Owner]:
    """Be the only trainer that writes `folder`, which is made if it is not there.

    If another has it: taken over at once when that was a process of this machine that is gone, and when its lease
    has stood still for `LEASE` seconds; Busy when it still moves after twice that time.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    owner = Owner(folder, LEASE)
    try:
        owner._acquire()
        yield owner
    finally:
        owner._release()


def beat(number: int) -> bytes:
    """The lease's first line, of one length whatever the number, so that it can be overwritten on a full disk."""
    return b"%020d\n" % number


def read(path: Path) -> bytes:
    """The bytes of a lease; none if there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def told(lease: bytes) -> dict[str, object]:
    """What a lease says about its holder; empty if there is none or it cannot be read, as after a power cut."""
    try:
        holder = json.loads(lease.partition(b"\n")[2])
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def name(holder: dict[str, object]) -> str:
    return f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= holder.keys() else "a trainer"


def dead(holder: dict[str, object]) -> bool:
    """Whether it is certain that the holder is gone: it was a process of this machine. Others may live unseen."""
    if not holder.get("born") or holder.get("machine") != machine():
        return False
    return born(int(str(holder["pid"]))) != holder["born"]


def machine() -> str:
    """Names this machine since its last start, and the namespace in which its process ids hold."""
    facts = [platform.node()]
    if sys.platform == "linux":
        facts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(facts)


def born(pid: int) -> str | None:
    """When a process was started, in ticks since the machine was; None if it is gone, or where nobody tells."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if after_name[0] in "ZX" else after_name[19]
