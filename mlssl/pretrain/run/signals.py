"""Signals that stop a run: it saves its state and exits with the code for running it again later."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

RUN_AGAIN_LATER = 75
"""Exit code (EX_TEMPFAIL of sysexits.h) of a stopped run: the same command, run again later, resumes it."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Sent by schedulers before they reclaim a node, and by Ctrl-C."""


class Interrupted(Exception):
    """A signal stopped the run; the message says what was saved and how to resume."""


class Stop:
    """Stop request shared by the signal handlers (see `listening`) and the training loop."""

    def __init__(self) -> None:
        self.signal: str | None = None
        """The name of the first signal received, such as SIGTERM."""
        self._deferring = False

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def defer(self) -> None:
        """Let later signals only set `requested`, so that the training loop stops after its current step.

        Before this call a signal raises Interrupted at once. Raises Interrupted if one was received already.
        """
        self._deferring = True
        if self.requested:
            raise self.nothing_done()

    def receive(self, number: int) -> None:
        """Handle a signal; a second SIGINT raises KeyboardInterrupt, which ends the run at once."""
        name = signal.Signals(number).name
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        first, self.signal = not self.requested, self.signal or name
        if first and not self._deferring:
            raise self.nothing_done()
        if first:
            hint = "; press Ctrl-C again to end at once" if number == signal.SIGINT else ""
            # Not `print`, because the signal may have interrupted another print.
            os.write(2, f"\n{name}: stopping after this step, the state is then saved{hint}\n".encode())

    def nothing_done(self) -> Interrupted:
        return Interrupted(
            f"stopped by {self.signal} before a step was done, so there was nothing new to save; "
            "run the same command again to resume"
        )


@contextmanager
def listening() -> Iterator[Stop]:
    """A Stop that handles SIGTERM, SIGUSR1 and SIGINT; the old handlers are restored at the end.

    Outside the main thread, where Python allows no handlers, it handles no signal.
    """
    stop, here = Stop(), os.getpid()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handler(number: int, frame: object) -> None:
        if os.getpid() == here:
            stop.receive(number)
        else:
            # A scheduler signals forked workers too. Their parent ends them; a second signal ends them directly.
            signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)
