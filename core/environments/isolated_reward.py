"""Rewards of a user's task, computed in a process of their own: one that raises, hangs, crashes or is no number is 0.

Knows what a failure is called, how often it is reported, and how long a score may take. How a score is stopped is
reward_process.py's.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import warnings
import weakref
from typing import IO, TYPE_CHECKING, Any

import attrs

from bitrl.core.environments import reward_process
from bitrl.core.environments.checked import briefly
from bitrl.core.errors import RunFailed
from bitrl.core.options import NoOptions, as_dict
from bitrl.core.wording import warn

if TYPE_CHECKING:
    from bitrl.core.environments.prompt_task import PromptTask

STARTING = 120.0
"""Seconds that the process may take to start: it imports the task's module."""

SPARE = 30.0
"""Seconds beyond the time limit after which the process itself is given up."""

MOST_REPORTED = 5
"""Kinds of failures that are reported one by one."""


@attrs.define
class TimeLimit:
    """How many seconds a score may take: `most`, until PATIENCE of them took longer. From then on FACTOR times the
    slowest that has ended by itself, and LEAST at least, so that thousands that hang do not stall a run.
    """

    PATIENCE = 3
    FACTOR = 10.0
    LEAST = 0.02

    most: float
    hung: int = 0
    slowest: float = 0.0

    def seconds(self) -> float:
        """Of the next score."""
        return self.most if self.hung < self.PATIENCE else min(self.most, max(self.LEAST, self.FACTOR * self.slowest))


class IsolatedReward:
    """The scores of a task, one after another, by a process that is started with the first.

    Attributes:
        scored, failed: how many there were.
    """

    def __init__(self, task: PromptTask):
        self.task, self.limit = task, TimeLimit(task.seconds_per_score())
        self.scored = self.failed = 0
        self._reported: set[str] = set()
        self._process: _Process | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None}  # another process starts its own

    def __call__(self, answer: Any, completion: str) -> tuple[float, bool]:
        """The reward of a completion, and whether it failed and counts as 0.

        Raises:
            RunFailed: the process cannot be started, or the answer cannot be given to it.
        """
        limit = self.limit.seconds()
        try:
            request = json.dumps({"answer": answer, "completion": completion, "limit": limit}).encode() + b"\n"
            kept = json.loads(request)["answer"] == answer  # a tuple would come as a list, which is never equal to it
        except (TypeError, ValueError):
            kept = False
        if kept is not True:
            raise RunFailed(
                f"environment {self.task.id}: the answer of a prompt goes to the process that scores as JSON, which "
                f"would not keep {briefly(answer)}: return strings, numbers, lists, or dicts of these with strings as "
                "keys, from prompt()"
            )
        process = self._running()
        try:
            found = process.ask(request, 2 * limit + SPARE)
        except BaseException:  # an interrupt between question and answer
            self._stop()
            raise
        if found is None:
            self._stop()
            found = {"failed": "ended the process that scores"}
        self.scored += 1
        if "reward" in found:
            self.limit.slowest = max(self.limit.slowest, found["seconds"])
            return float(found["reward"]), False
        self._failed(found["failed"], completion, limit)
        return 0.0, True

    def close(self) -> None:
        """End the process; say how many scores failed since the last time, if they are more than were reported."""
        self._stop()
        if self.failed > len(self._reported):
            warn(
                f"environment {self.task.id}: {self.failed:,} of {self.scored:,} rewards failed and counted as 0 "
                "(env.failed_rewards in metrics.jsonl)"
            )
            self.scored = self.failed = 0
            self._reported.clear()

    def _failed(self, why: str, completion: str, limit: float) -> None:
        self.failed += 1
        if why == "time":
            self.limit.hung += 1
            why = f"took longer than {limit:g} s"
        kind = why.partition(":")[0].partition(" than")[0]
        if kind not in self._reported and len(self._reported) < MOST_REPORTED:
            self._reported.add(kind)
            warn(f"environment {self.task.id}: the score of {completion[:40]!r} {why}: its reward is 0")

    def _running(self) -> _Process:
        if self._process is None or self._process.owner != os.getpid():  # (a fork has its parent's)
            self._process = started(self.task)
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None


class _Process:
    """The process, and the pipes to it."""

    def __init__(self, pid: int, requests: IO[bytes], answers: IO[bytes]):
        self.owner = os.getpid()
        self._requests, self._answers = requests, answers
        self.stop = weakref.finalize(self, _end, pid, self.owner, requests, answers)

    def ask(self, line: bytes, seconds: float) -> dict[str, Any] | None:
        """Its answer to a line; None if it has ended, or takes longer than so many seconds."""
        try:
            self._requests.write(line)
            self._requests.flush()
        except OSError:
            return None
        return self.answer(seconds)

    def answer(self, seconds: float) -> dict[str, Any] | None:
        """The next answer; None as `ask`."""
        if not select.select([self._answers], [], [], seconds)[0]:
            return None
        line = self._answers.readline()
        answer: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
        return answer


def _end(pid: int, owner: int, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Close the pipes, upon which the process ends; wait for it."""
    for pipe in (requests, answers):
        with contextlib.suppress(OSError):
            pipe.close()
    if os.getpid() != owner:
        return
    with contextlib.suppress(ChildProcessError, ProcessLookupError):
        for _ in range(500):
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)  # something stopped it
        os.waitpid(pid, 0)


def started(task: PromptTask) -> _Process:
    """A process that scores. It imports the task's module; a task that cannot be imported, since it was defined in a
    script or a function, is scored by a fork of this process.

    Raises:
        RunFailed: it cannot be started.
    """
    kind = type(task)
    if not _importable(kind):
        return _forked(task)
    options = type(task.options)
    described = {
        "task": (kind.__module__, kind.__qualname__),
        "options": (options.__module__, options.__qualname__),
        "values": {} if options is NoOptions else as_dict(task.options),
        "id": task.id,
        "path": sys.path,
        "parent": os.getpid(),
    }
    made = subprocess.Popen(
        [sys.executable, "-m", "bitrl.core.environments.reward_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # signals of the terminal are for the parent alone
    )
    assert made.stdin is not None
    assert made.stdout is not None
    process = _Process(made.pid, made.stdin, made.stdout)
    made.returncode = 0  # it is waited for by its number
    ready = process.ask(json.dumps(described).encode() + b"\n", STARTING)
    if ready is None or "failed" in ready:
        process.stop()
        why = "it ended, or took too long" if ready is None else ready["failed"]
        raise RunFailed(f"environment {task.id}: the process that scores could not start: {why}")
    return process


def _importable(kind: type) -> bool:
    """Whether another process finds this class by its name."""
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        return False
    with contextlib.suppress(ImportError, AttributeError):
        return reward_process.named(kind.__module__, kind.__qualname__) is kind
    return False


def _forked(task: PromptTask) -> _Process:
    """A fork of this process that scores."""
    task.prepare()
    child_reads, requests = os.pipe()
    answers, child_writes = os.pipe()
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads: it runs nothing but the score
        pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            reward_process.begin_fork(keep=(child_reads, child_writes))
            with open(child_reads, "rb", buffering=0) as reader, open(child_writes, "wb") as writer:
                reward_process.serve(task, reader, writer, parent)
        finally:
            os._exit(0)
    os.close(child_reads)
    os.close(child_writes)
    return _Process(pid, open(requests, "wb"), open(answers, "rb"))
