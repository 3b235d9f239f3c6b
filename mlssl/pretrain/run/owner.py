"""One trainer per run: a lease in the state folder, which a new trainer takes over from an orphaned one.

A file lock held for the whole training would not do. Snakemake and Slurm start a run again while its old trainer
may still exist: an orphan of a killed Snakemake trains on, and the trainer of a lost node may be frozen or cut off
from the network. A lock of such a node, on a shared file system, may stay locked for ever, or be released although
the trainer still runs. And a trainer that was given up for dead may wake up in the middle of a step, and must then
not overwrite the files of the one that replaced it; a lock does not make it notice.

So the holder of a run has a lease that expires. The lease (`owner.lease`) names the holder; its first line is a
counter that the holder increments a few times per lease time. A waiting trainer measures with its own monotonic
clock for how long the counter has not changed, so the clocks of two machines are never compared. If the holder was
a process of the same machine that has ended, the lease is taken at once. Every write to the run's folder is made
within `Owner.writing`, which checks that the lease is still its own, and holds a file lock for the duration of the
write so that no trainer can take the lease between check and write.
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

RENEWALS = 6
"""Number of increments of the counter in that time."""

NOT_OWNER = 73
"""Exit code (EX_CANTCREAT of sysexits.h) of a trainer whose run was taken over: it must not be restarted."""


class RunInUse(RuntimeError):
    """Another trainer is training this run."""


class TakenOver(RuntimeError):
    """Another trainer has taken over this run; this one must not write."""


class Owner:
    """The right to write to a run's folder. Created by `own`."""

    def __init__(self, folder: Path, lease: float) -> None:
        self.path, self.lease = Path(folder) / "owner.lease", lease
        self.token = uuid.uuid4().hex
        self._lock = FileLock(self.path.with_suffix(".lock"), timeout=lease)
        self._file: int | None = None
        self._ended = threading.Event()
        self._renewal: threading.Thread | None = None

    def check(self) -> None:
        """Raises TakenOver if this trainer has lost the lease."""
        holder = parse_lease(read_lease(self.path))
        if holder.get("token") != self.token:
            by = f"by {describe(holder)}" if holder else "and has ended since"
            raise TakenOver(
                f"{self.path.parent}: the run was taken over {by}; this trainer stops and writes nothing"
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A short context in which no trainer can take over the run. Raises TakenOver if one already has."""
        with self._locked():
            self.check()
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except Timeout:
            raise RunInUse(
                f"{self._lock.lock_file}: locked by a process that hangs; end it and run the command again"
            ) from None

    def _acquire(self) -> None:
        """Take the lease as soon as it is free."""
        began = unchanged_since = time.monotonic()
        seen, reported = None, False
        while True:
            with self._locked():
                lease, now = read_lease(self.path), time.monotonic()
                holder = parse_lease(lease)
                if lease != seen:
                    seen, unchanged_since = lease, now
                if not lease or has_ended(holder) or now - unchanged_since >= self.lease:
                    self._take()
                    return
            if now - began >= 2 * self.lease:
                raise RunInUse(
                    f"{self.path.parent}: {describe(holder)} is training this run; wait until it ends, or end it"
                )
            if not reported:
                print(
                    f"{self.path.parent}: {describe(holder)} has this run; "
                    f"waiting {self.lease:g} to {2 * self.lease:g} s to see whether it has ended",
                    file=sys.stderr,
                )
                reported = True
            time.sleep(min(1.0, self.lease / 20))

    def _take(self) -> None:
        """Put a lease of this process in the place of any other, and start to renew it."""
        holder = {
            "host": platform.node(),
            "pid": os.getpid(),
            "machine": machine(),
            "started": start_time(os.getpid()),
            "token": self.token,
        }
        part = self.path.with_name(f".{self.path.name}.{self.token}.part")
        try:
            # Kept open: renewals go to this file, never to the lease that another trainer has put in its place.
            self._file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(self._file, counter_line(0) + json.dumps(holder).encode() + b"\n")
            os.fsync(self._file)
            os.replace(part, self.path)
        finally:
            part.unlink(missing_ok=True)
        self._renewal = threading.Thread(target=self._renew, args=(self._file,), name="lease", daemon=True)
        self._renewal.start()

    def _renew(self, file: int) -> None:
        """Increment the counter until the owner is released."""
        count, reported = 0, None
        while not self._ended.wait(self.lease / RENEWALS):
            count += 1
            try:
                os.pwrite(file, counter_line(count), 0)
                os.fsync(file)
            except OSError as error:
                if reported != str(error):
                    print(f"{self.path}: the lease cannot be renewed ({error}); trying again", file=sys.stderr)
                reported = str(error)

    def _release(self) -> None:
        """Stop the renewals, and remove the lease if it is still the own one."""
        self._ended.set()
        if self._renewal:
            self._renewal.join()
        if self._file is None:
            return
        os.close(self._file)
        with self._locked():
            if parse_lease(read_lease(self.path)).get("token") == self.token:
                self.path.unlink()


@contextmanager
def own(folder: Path) -> Iterator[Owner]:
    """Become the only trainer that writes to `folder`, which is created if it is missing.

    Takes the lease of another trainer at once if that was a process of this machine that has ended, else when its
    counter has not changed for `LEASE` seconds. Raises RunInUse if it still changes after twice that time.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    owner = Owner(folder, LEASE)
    try:
        owner._acquire()
        yield owner
    finally:
        owner._release()


def counter_line(count: int) -> bytes:
    """The lease's first line, of fixed length, so that it can be overwritten on a full disk."""
    return b"%020d\n" % count


def read_lease(path: Path) -> bytes:
    """The bytes of a lease; empty if there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def parse_lease(lease: bytes) -> dict[str, object]:
    """The holder recorded in a lease; empty if there is none or it cannot be parsed, as after a power cut."""
    try:
        holder = json.loads(lease.partition(b"\n")[2])
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def describe(holder: dict[str, object]) -> str:
    return f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= holder.keys() else "a trainer"


def has_ended(holder: dict[str, object]) -> bool:
    """Whether the holder was a process of this machine and has ended; False on another machine (unknown)."""
    if not holder.get("started") or holder.get("machine") != machine():
        return False
    return start_time(int(str(holder["pid"]))) != holder["started"]


def machine() -> str:
    """Identifies this machine since its last boot, and the namespace of its process ids."""
    facts = [platform.node()]
    if sys.platform == "linux":
        facts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(facts)


def start_time(pid: int) -> str | None:
    """When a process was started, in clock ticks since boot; None if it has ended, or without /proc."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if after_name[0] in "ZX" else after_name[19]
