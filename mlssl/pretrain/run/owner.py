"""One trainer per run: a lease in the state folder, which a new trainer takes over from an orphaned one.

The lease (`owner.lease`) names its holder; its first line is a counter that the holder increments a few times per
lease time. A waiting trainer measures with its own monotonic clock for how long the counter has not changed, so the
clocks of two machines are never compared. Every write to the run's folders is made within `Owner.writing`, which
holds a file lock for the duration of the write and checks that the lease is still its own.
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
"""Seconds without a change of the counter after which another trainer takes the lease."""

BEATS = 6
"""Number of renewals by the holder in that time."""

NOT_OWNER = 73
"""Exit code (EX_CANTCREAT of sysexits.h) of a trainer whose run was taken over: it must not be restarted."""


class Busy(RuntimeError):
    """Another trainer is training this run."""


class Taken(RuntimeError):
    """Another trainer has taken over this run; this one must not write."""


class Owner:
    """The right to write to a run's folders. Created by `own`."""

    def __init__(self, folder: Path, lease: float) -> None:
        self.path, self.lease = Path(folder) / "owner.lease", lease
        self.token = uuid.uuid4().hex
        self._lock = FileLock(self.path.with_suffix(".lock"), timeout=lease)
        self._file: int | None = None
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lease", daemon=True)

    def check(self) -> None:
        """Raises Taken if this trainer has lost the lease."""
        holder = told(read(self.path))
        if holder.get("token") != self.token:
            by = f"by {name(holder)}" if holder else "and has ended since"
            raise Taken(f"{self.path.parent}: the run was taken over {by}; this trainer stops and writes nothing")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A short context in which no trainer can take over the run. Raises Taken if one already has."""
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
                f"{self._lock.lock_file}: locked by a process that hangs; end it and run the command again"
            ) from None

    def _acquire(self) -> None:
        began = still_since = time.monotonic()
        seen, waiting = None, False
        while True:
            with self._locked():
                lease, now = read(self.path), time.monotonic()
                if lease != seen:
                    seen, still_since = lease, now
                if not lease or dead(told(lease)) or now - still_since >= self.lease:
                    self._take()
                    return
            if now - began >= 2 * self.lease:
                raise Busy(
                    f"{self.path.parent}: {name(told(lease))} is training this run; wait until it ends, or end it"
                )
            if not waiting:
                print(
                    f"{self.path.parent}: {name(told(lease))} has this run; "
                    f"waiting {self.lease:g} to {2 * self.lease:g} s to see whether it has ended",
                    file=sys.stderr,
                )
                waiting = True
            time.sleep(min(1.0, self.lease / 20))

    def _take(self) -> None:
        holder = {
            "host": platform.node(),
            "pid": os.getpid(),
            "machine": machine(),
            "born": born(os.getpid()),
            "token": self.token,
        }
        part = self.path.with_name(f".{self.path.name}.{self.token}.part")
        try:
            # Kept open: renewals go to this file, never to the lease that another trainer has put in its place.
            self._file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(self._file, beat(0) + json.dumps(holder).encode() + b"\n")
            os.fsync(self._file)
            os.replace(part, self.path)
        finally:
            part.unlink(missing_ok=True)
        self._heart.start()

    def _beat(self) -> None:
        beats, reported = 0, None
        while not self._ended.wait(self.lease / BEATS):
            beats += 1
            try:
                os.pwrite(self._file, beat(beats), 0)
                os.fsync(self._file)
            except OSError as error:
                if reported != str(error):
                    print(f"{self.path}: the lease cannot be renewed ({error}); trying again", file=sys.stderr)
                reported = str(error)

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
    """Become the only trainer that writes to `folder`, which is created if it is missing.

    Takes the lease of another trainer at once if that was a process of this machine that has ended, else when its
    counter has not changed for `LEASE` seconds. Raises Busy if it still changes after twice that time.
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
    """The lease's first line, of fixed length, so that it can be overwritten on a full disk."""
    return b"%020d\n" % number


def read(path: Path) -> bytes:
    """The bytes of a lease; empty if there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def told(lease: bytes) -> dict[str, object]:
    """The holder recorded in a lease; empty if there is none or it cannot be parsed, as after a power cut."""
    try:
        holder = json.loads(lease.partition(b"\n")[2])
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def name(holder: dict[str, object]) -> str:
    return f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= holder.keys() else "a trainer"


def dead(holder: dict[str, object]) -> bool:
    """Whether the holder was a process of this machine and has ended; False on another machine (unknown)."""
    if not holder.get("born") or holder.get("machine") != machine():
        return False
    return born(int(str(holder["pid"]))) != holder["born"]


def machine() -> str:
    """Identifies this machine since its last boot, and the namespace of its process ids."""
    facts = [platform.node()]
    if sys.platform == "linux":
        facts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(facts)


def born(pid: int) -> str | None:
    """When a process was started, in clock ticks since boot; None if it has ended, or without /proc."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if after_name[0] in "ZX" else after_name[19]
