"""A signal is answered the moment it comes, also while Python cannot act on it."""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import threading
from collections.abc import Iterator

import pytest

from recsysml.engine.signals import StopRequest, termination_interrupts, uninterrupted

NUMBERS = [signal.SIGINT, signal.SIGTERM]
PATIENCE = 10_000  # milliseconds; only a failure takes them


class Said(logging.Handler):
    """Remembers what is said, and makes a pipe readable with each line."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.reader, self.writer = os.pipe()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        os.write(self.writer, b".")

    def wait_outside_python(self) -> int:
        """Wait for a line in the C library, as in a compiler: no handler of Python's runs before it is over. 0: none
        came."""

        class PollFd(ctypes.Structure):
            _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))

        return ctypes.CDLL(None).poll(ctypes.byref(PollFd(self.reader, select.POLLIN, 0)), 1, PATIENCE)


@pytest.fixture
def said() -> Iterator[Said]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started deaf to it
    handler, logger = Said(), logging.getLogger("recsysml")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    os.close(handler.reader)
    os.close(handler.writer)
    for number, previous in before.items():
        signal.signal(number, previous)


def send(number: int) -> threading.Thread:
    """A signal that interrupts no call of the main thread: the system hands it to another one."""
    thread = threading.Thread(target=lambda: signal.pthread_kill(threading.get_ident(), number))
    threading.Timer(0.05, thread.start).start()
    return thread


def wait_for(number: int, said: Said) -> None:
    send(number)
    said.wait_outside_python()
    signal.pause()  # never reached: the handler runs before


@pytest.mark.parametrize("number", NUMBERS)
def test_outside_the_loop(said: Said, number: signal.Signals) -> None:
    handlers = [signal.getsignal(each) for each in NUMBERS]
    with termination_interrupts(), pytest.raises(KeyboardInterrupt):
        wait_for(number, said)
    (line,) = said.lines
    assert line.startswith(f"{number.name}: stopping")
    assert [signal.getsignal(each) for each in NUMBERS] == handlers
    assert signal.set_wakeup_fd(-1) == -1
    assert not [thread for thread in threading.enumerate() if thread.name == "signals"]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("within_a_run", [True, False])
def test_in_the_loop(said: Said, number: signal.Signals, within_a_run: bool) -> None:
    with termination_interrupts() if within_a_run else StopRequest(), StopRequest() as stop:
        send(number)
        assert said.wait_outside_python() == 1
        assert said.lines and "saving after this step" in said.lines[0]
    assert stop.requested
    assert len(said.lines) == 1


def test_one_that_is_acted_on_at_once_is_said_in_the_words_of_its_place(said: Said) -> None:
    with termination_interrupts(), StopRequest():
        os.kill(os.getpid(), signal.SIGTERM)
    assert len(said.lines) == 1 and "saving after this step" in said.lines[0]


@pytest.mark.parametrize("number", NUMBERS)
def test_one_that_is_let_pass_is_not_said_to_stop_anything(said: Said, number: signal.Signals) -> None:
    with termination_interrupts(), uninterrupted():
        os.kill(os.getpid(), number)
    assert said.lines == []
