"""SIGINT and SIGTERM: within the loop a request to stop after the step at hand, outside it the end of the run.

Python acts on a signal once the call at hand returns, which for a compiler or a tokenizer's training is seconds later.
So a thread of its own, which the system's handler wakes, says at once that the signal came.
"""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType

logger = logging.getLogger("recsysml")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# what is said of a signal in the part of a run at hand, innermost last; "" is nothing
_answers: list[str] = []
# signal -> what was to be said of it when it was acted on: by then the part may be over before the thread has its turn
_acted_on: dict[int, str] = {}


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """While entered, SIGTERM raises KeyboardInterrupt, as SIGINT does by itself: for all of a run but its loop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _said("stopping; what is at work (a compiler, a library) may first have to come to its end"):
        before = {signal.SIGTERM: signal.signal(signal.SIGTERM, _interrupt)}
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background jobs are deaf to it
            before[signal.SIGINT] = signal.signal(signal.SIGINT, _interrupt)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _acted_on[number] = _answers[-1]
    raise KeyboardInterrupt


@contextmanager
def uninterrupted() -> Iterator[None]:
    """While entered, SIGTERM and a first SIGINT are let pass: for the moments in which a record is completed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []

    def pass_by(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in seen:
            raise KeyboardInterrupt
        seen.append(number)
        _acted_on[number] = ""

    _answers.append("")
    before = {number: signal.signal(number, pass_by) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _answers.pop()


class StopRequest:
    """While entered, the first SIGINT or SIGTERM is a request; another SIGINT stops at once (KeyboardInterrupt)."""

    def __init__(self) -> None:
        self.requested = False
        self._entered = ExitStack()

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # python allows handlers nowhere else
            answer = "saving after this step, or after the validation at hand (Ctrl-C again stops at once)"
            self._entered.enter_context(_said(answer))
            for number in _SIGNALS:
                self._entered.callback(signal.signal, number, signal.signal(number, self._handle))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        _acted_on[number] = _answers[-1]
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def _said(answer: str) -> Iterator[None]:
    """While entered, a signal is answered with these words the moment it comes, each signal once."""
    outermost = not _answers
    _answers.append(answer)
    try:
        if outermost:
            with _listening():
                yield
        else:
            yield
    finally:
        _answers.pop()


@contextmanager
def _listening() -> Iterator[None]:
    """The thread that speaks, from here to the end of the outermost part. In the main thread only."""
    _acted_on.clear()
    ours, its = socket.socketpair()
    ours.setblocking(False)  # the system's handler must not wait
    speaker = threading.Thread(target=_speak, args=(its,), name="signals", daemon=True)
    speaker.start()
    before = signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        ours.close()
        speaker.join(timeout=1)  # what came last is said before the run's last words


def _speak(wakeups: socket.socket) -> None:
    said: set[int] = set()
    with wakeups:
        while numbers := wakeups.recv(64):  # one byte a signal; none when the other end is closed
            for number in set(numbers).intersection(_SIGNALS) - said:
                answer = _acted_on.pop(number, _answers[-1] if _answers else "")
                if answer:
                    said.add(number)
                    logger.warning("%s: %s", signal.Signals(number).name, answer)
