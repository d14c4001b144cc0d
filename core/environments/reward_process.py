"""The process in which a user's rewards are computed: `python -m bitrl.core.environments.reward_process`.

It reads which task it is, and then requests, as lines of JSON, and answers each with a line. What scores is a fork of
it, so that a new one is there within milliseconds once one had to be killed. Knows how a score is stopped; does not
know what follows from that (isolated_reward.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import math
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Collection, Mapping
from typing import IO, Any, Protocol

from bitrl.core.address_space import used
from bitrl.core.errors import cause, out_of_memory

LARGEST = 3.4e38
"""Rewards are float32."""

MARGIN = 0.03
"""Seconds, beside half of the time limit, until a score that does not heed the timer is killed."""

BEGUN = b">"
"""What a worker writes when it begins to score: time counts from then, not from when a busy machine was asked to."""

BEGINNING = 30.0
"""Seconds that may take."""


class Scorer(Protocol):
    """What is scored by: a PromptTask."""

    memory_limit: int

    def score(self, answer: Any, completion: str) -> float:
        """The reward of a completion."""
        ...


class OutOfTime(BaseException):
    """Raised by the timer inside a score. Not an Exception, which many scores catch."""


def serve(task: Scorer, requests: IO[bytes], answers: IO[bytes], parent: int) -> None:
    """Answer requests until their writer is gone, or `parent` is no longer this process's parent.

    A request is {"answer", "completion", "limit": seconds}, its answer {"reward", "seconds"} or {"failed": why}.
    """
    worker: Worker | None = None
    try:
        while _readable(requests, parent):
            line = requests.readline()
            if not line.endswith(b"\n"):
                break
            worker = worker or Worker(task)
            answer = worker.ask(line, json.loads(line)["limit"], requests, parent)
            if answer is not None and b'"failed"' in answer and worker.has_children():
                worker.kill()  # they may go on; the next score gets a new worker
                worker = None
            if answer is None:
                assert worker is not None
                answer = json.dumps({"failed": worker.kill()}).encode() + b"\n"
                worker = None
            answers.write(answer)
            answers.flush()
    finally:
        if worker is not None:
            worker.kill()


def _readable(requests: IO[bytes], parent: int) -> bool:
    """Whether something came, or the writer is gone; False if the parent is another. Nothing is buffered here."""
    while os.getppid() == parent:
        if select.select([requests], [], [], 1.0)[0]:
            return True
    return False


class Worker:
    """A fork of this process that scores."""

    def __init__(self, task: Scorer):
        child_reads, self._requests = os.pipe()
        self._answers, child_writes = os.pipe()
        me = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(self._requests)
                os.close(self._answers)
                _begin(me, task.memory_limit)
                _score_all(task, child_reads, child_writes)
                status = 0
            finally:
                os._exit(status)
        os.close(child_reads)
        os.close(child_writes)
        self._overdue = False

    def ask(self, line: bytes, limit: float, requests: IO[bytes], parent: int) -> bytes | None:
        """The answer to a request; None if the worker has ended or has to be killed."""
        try:
            os.write(self._requests, len(line).to_bytes(8))
            for start in range(0, len(line), 65536):
                os.write(self._requests, line[start : start + 65536])
        except OSError:
            return None
        end, answer = time.monotonic() + BEGINNING, b""
        while not answer.endswith(b"\n"):
            left = end - time.monotonic()
            readers: list[Any] = [self._answers, requests]
            ready = select.select(readers, [], [], max(0.0, min(left, 1.0)))[0]
            if requests in ready or os.getppid() != parent:  # nothing is asked meanwhile: the writer is gone
                self.kill()
                os._exit(1)
            if self._answers in ready:
                part = os.read(self._answers, 65536)
                if not part:
                    return None
                if not answer:
                    end = time.monotonic() + 1.5 * limit + MARGIN
                answer += part
            elif left <= 0:
                self._overdue = True
                return None
        return answer.removeprefix(BEGUN)

    def has_children(self) -> bool:
        """Whether the worker has processes of its own left, where the system says so."""
        with contextlib.suppress(OSError), open(f"/proc/{self.pid}/task/{self.pid}/children", "rb") as file:
            return bool(file.read().strip())
        return False

    def kill(self) -> str:
        """End the worker and what it has started; returns how it ended."""
        if self._overdue:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):  # before it is the leader of a group
                os.kill(self.pid, signal.SIGKILL)
        os.close(self._requests)
        os.close(self._answers)
        status = self._ended()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._overdue:
            return "time"
        code = os.waitstatus_to_exitcode(status)
        return f"ended its process ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"

    def _ended(self) -> int:
        """Wait for the worker, which ends since its pipes are closed; if it does not soon, kill it."""
        for _ in range(20):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return status
            time.sleep(0.001)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
            os.kill(self.pid, signal.SIGKILL)
        return os.waitpid(self.pid, 0)[1]


def _begin(parent: int, memory: int) -> None:
    """In a worker: die with the parent, take no signals of the terminal, and no more than so many bytes."""
    os.setpgid(0, 0)
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = used() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def die_with(parent: int) -> None:
    """End this process when the parent ends: Linux sends a signal. Elsewhere the pipes' ends have to do."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _score_all(task: Scorer, requests: int, answers: int) -> None:
    """In a worker: answer requests until there are no more."""

    def out_of_time(signum: int, frame: object) -> None:
        raise OutOfTime

    me = os.getpid()
    with open(requests, "rb") as reader:
        while size := reader.read(8):
            request = json.loads(reader.read(int.from_bytes(size)))
            signal.signal(signal.SIGALRM, out_of_time)
            os.write(answers, BEGUN)
            answer = scored(task, request)
            if os.getpid() != me:  # a fork that the score made and did not end: its answer would be the next one's
                os._exit(0)
            os.write(answers, json.dumps(answer).encode() + b"\n")


def scored(task: Scorer, request: Mapping[str, Any]) -> dict[str, Any]:
    """One score: {"reward", "seconds"}, or {"failed": why}; "time" if the timer stopped it."""
    started = time.perf_counter()
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, request["limit"])
            value = task.score(request["answer"], request["completion"])
            return as_reward(value) | {"seconds": time.perf_counter() - started}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except OutOfTime:
        return {"failed": "time"}
    except BaseException as error:  # sys.exit() too
        return {"failed": "ran out of memory" if out_of_memory(error) else f"raised {cause(error)[:200]}"}


def as_reward(value: Any) -> dict[str, Any]:
    """What a score returned: {"reward": float}, or {"failed": why}."""
    if isinstance(value, (str, bytes)) or value is None:
        return {"failed": f"returned {value!r:.80}, expected a number"}
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return {"failed": f"returned {type(value).__name__}, expected a number"}
    if not math.isfinite(number) or abs(number) > LARGEST:
        return {"failed": f"returned {number}, expected a finite number (float32)"}
    return {"reward": number}


def built(described: Mapping[str, Any]) -> Any:
    """The task that isolated_reward.py describes."""
    from bitrl.core.options import parse

    options = parse(named(*described["options"]), described["values"], "env")
    return named(*described["task"])(options, described["id"])


def named(module: str, name: str) -> Any:
    """What is called so in a module."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def begin_fork(keep: Collection[int]) -> None:
    """In a fork of a process that does other things: close its files but `keep` (a lock would stay), print to stderr,
    and leave signals to it.
    """
    most = max(64, *keep, *_open_files())
    for number in range(3, most + 1):
        if number not in keep:
            with contextlib.suppress(OSError):
                os.close(number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    for each in (signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _open_files() -> list[int]:
    """Numbers of the open files, where the system lists them; else as many as there may be."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return [int(name) for name in os.listdir(folder)]
    return [4096]


def main() -> None:
    """Serve the task that the first line describes."""
    requests, answers = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what a score prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the parent decides
    described = json.loads(requests.readline())
    sys.path[:] = described["path"]
    try:
        task = built(described)
        task.prepare()
    except BaseException as error:
        answers.write(json.dumps({"failed": cause(error)}).encode() + b"\n")
        answers.flush()
        return
    answers.write(b'{"ready": true}\n')
    answers.flush()
    serve(task, requests, answers, described["parent"])


if __name__ == "__main__":
    main()
