"""Signals that ask a run to make room: it saves what it has and says that it is to be started again."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

GO_ON_LATER = 75
"""Exit code (EX_TEMPFAIL of sysexits.h) of a run that ends well if the same command is run again later."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What schedulers send before they take a node away, and Ctrl-C."""


class Interrupted(Exception):
    """A signal ended the run early; the message says what was saved and how to go on."""


class Stop:
    """Whether the run is asked to stop. As it is made, nobody asks; `listening` gives one that hears signals."""

    def __init__(self) -> None:
        self.signal: str | None = None
        """The name of the first signal that came, such as SIGTERM."""
        self._deferring = False

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def defer(self) -> None:
        """From now on a signal only sets `requested`, and whoever trains stops after the step it is in.

        Until now it raised Interrupted where it arrived; so does this, should one have come already.
        """
        self._deferring = True
        if self.requested:
            raise self.nothing_done()

    def hear(self, number: int) -> None:
        """Take note of a signal; a second SIGINT raises KeyboardInterrupt, for whoever does not want to wait."""
        name = signal.Signals(number).name
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        first, self.signal = not self.requested, self.signal or name
        if first and not self._deferring:
            raise self.nothing_done()
        if first:
            again = "; once more ends it at once" if number == signal.SIGINT else ""
            # Not `print`, which a signal may have interrupted.
            os.write(2, f"\n{name}: stopping after this step, the state is then saved{again}\n".encode())

    def nothing_done(self) -> Interrupted:
        return Interrupted(
            f"stopped by {self.signal} before a step was done, so there was nothing new to save; "
            "run the same command again to go on"
        )


@contextmanager
def listening() -> Iterator[Stop]:
    """A Stop that hears SIGTERM, SIGUSR1 and SIGINT; afterwards the old handlers are back.

    Outside the main thread, where Python allows no handlers, it hears nothing.
    """
    stop, here = Stop(), os.getpid()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handler(number: int, frame: object) -> None:
        if os.getpid() == here:
            stop.hear(number)
        else:
            # A scheduler signals forked workers too. Their parent sees to them; a second signal is for them.
            signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)
