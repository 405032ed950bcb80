"""Interleaved timing: every contender in a process of its own, one step each in turn, A B C A B C ...

What disturbs the machine then disturbs all of them alike, and none inherits another's threads, allocator or caches.
The one that is not timed sleeps.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Contender:
    """A command that calls `serve`, and what it answered."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    interpreter: str = sys.executable
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [self.interpreter, *self.command],
            env=os.environ | self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, steps: int, *, record: bool = True) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} ended with exit code {self.process.wait()}; its error is above")
        seconds, cpu_seconds, values = json.loads(answer)
        self.values += values
        if record:
            self.seconds += seconds
            self.cpu_seconds += cpu_seconds

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def duel(contenders: list[Contender], rounds: int, *, warm_up: int = 2, steps: int = 1) -> None:
    """Fills every contender's `seconds`: `rounds` x `steps` times of one step, after `warm_up` steps that do not count.

    Raises RuntimeError when a contender dies.
    """
    for contender in contenders:
        contender.start()
        contender.ask(warm_up, record=False)
    for _ in range(rounds):
        for contender in contenders:
            contender.ask(steps)
    for contender in contenders:
        contender.stop()


def serve(step: Callable[[int], float]) -> None:
    """The contender's side: for every number read, run so many steps and write their times and what they returned.

    `step(i)` does step i, counted from 0, and returns its loss.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints must not mix with the answers
    done = 0
    for line in sys.stdin:
        seconds, cpu_seconds, values = [], [], []
        for _ in range(int(line)):
            started, cpu_started = time.perf_counter(), time.process_time()
            values.append(float(step(done)))
            seconds.append(time.perf_counter() - started)
            cpu_seconds.append(time.process_time() - cpu_started)
            done += 1
        answers.write(json.dumps([seconds, cpu_seconds, values]) + "\n")
        answers.flush()
