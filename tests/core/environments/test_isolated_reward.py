"""Scores of users' tasks that go wrong in every way: each is 0, named and counted, and nothing stalls or is left."""

import itertools
import os
import pickle
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import bitrl
from bitrl.core.environments.isolated_reward import TimeLimit


class Bad(bitrl.PromptTask):
    """A score that does what the completion says."""

    time_limit = 2.0
    memory_limit = 100 * 2**20

    def prompt(self, random):
        return f"say {random.integers(1000)}", {"n": [1, "ö"]}

    def score(self, answer, completion):
        assert answer == {"n": [1, "ö"]}
        match completion:
            case "right":
                return 1.0
            case "raise":
                raise ValueError("no")
            case "loop":
                while True:
                    pass
            case "stubborn":
                while True:
                    try:
                        while True:
                            pass
                    except BaseException:
                        continue
            case "in C":
                sum(itertools.repeat(0))
            case "sleep":
                time.sleep(1000)
            case "exit":
                os._exit(3)
            case "sys.exit":
                sys.exit(2)
            case "memory":
                return len([bytearray(10**7) for _ in range(10**6)])
            case "nan":
                return float("nan")
            case "infinite":
                return float("-inf")
            case "none":
                return None
            case "text":
                return "1"
            case "huge":
                return 10**400
            case "crash":
                os.kill(os.getpid(), 11)
            case "fork":
                return float(os.fork() > 0)
            case "fork and sys.exit":
                if os.fork() == 0:
                    sys.exit(0)
                return 1.0
            case "kill the parent":
                os.kill(os.getppid(), 9)
        print("seen")
        return 0.5


FAILING = {
    "raise": "raised ValueError: no",
    "loop": "took longer than 2 s",
    "exit": "ended its process (exit code 3)",
    "sys.exit": "raised SystemExit: 2",
    "memory": "",  # out of memory, or of time where the system does not enforce RLIMIT_AS
    "nan": "returned nan, expected a finite number",
    "infinite": "returned -inf, expected a finite number",
    "none": "returned None, expected a number",
    "text": "returned '1', expected a number",
    "huge": "returned int, expected a number",
    "crash": "ended its process (SIGSEGV)",
    "kill the parent": "ended the process that scores",
}


@pytest.fixture(scope="module")
def shared():
    made = Bad()
    yield made
    made.close()


@pytest.fixture
def task(shared):
    """One task for all, since its process takes a while to start; nothing counted or reported yet."""
    if shared._rewards is not None:
        shared._rewards._reported.clear()
        shared._rewards.scored = shared._rewards.failed = shared._rewards.limit.hung = 0
    return shared


@pytest.mark.parametrize("completion", FAILING)
def test_a_failure_is_named_and_zero_and_the_next_score_is_right(completion, task, capfd):
    assert task.reward({"n": [1, "ö"]}, completion) == (0.0, True)
    assert task.reward({"n": [1, "ö"]}, "right") == (1.0, False)
    said = capfd.readouterr()
    assert f"environment Bad: the score of '{completion}' {FAILING[completion]}" in said.err
    assert said.out == ""


def test_what_hangs_in_any_way_ends(task):
    for completion in ("stubborn", "in C", "sleep"):
        assert task.reward({"n": [1, "ö"]}, completion) == (0.0, True)
    assert task.reward({"n": [1, "ö"]}, "else") == (0.5, False)


@pytest.mark.parametrize("completion", ["fork", "fork and sys.exit"])
def test_a_fork_of_a_score_answers_nothing(completion, task):
    for _ in range(20):
        assert task.reward({"n": [1, "ö"]}, completion) == (1.0, False)
        assert task.reward({"n": [1, "ö"]}, "else") == (0.5, False)


class Prepared(Bad):
    """Needs longer to begin than a score may take."""

    time_limit = 0.5

    def prepare(self):
        time.sleep(1)
        self.known = 0.25

    def score(self, answer, completion):
        return self.known


def test_what_a_task_prepares_is_not_its_scores_time():
    class Local(Prepared):
        pass

    for made in (Prepared(), Local()):
        assert made.reward(1, "a") == (0.25, False)
        made.close()


def test_after_some_hangs_the_limit_follows_the_slowest_success():
    limit = TimeLimit(5.0)
    assert limit.seconds() == 5.0
    limit.hung, limit.slowest = 3, 0.01
    assert limit.seconds() == pytest.approx(0.1)
    limit.slowest = 10.0
    assert limit.seconds() == 5.0
    limit.slowest = 0.0
    assert limit.seconds() == TimeLimit.LEAST


def test_the_episode_counts_it_and_the_end_says_how_many(task, capfd):
    env = task.make()
    failed = []
    for completion in ("right", "raise", "raise", "raise"):
        env.reset(seed=0)
        *_, info = env.step(completion)
        failed.append((info["success"], info["metrics"]))
    assert failed == [
        (True, {"correct": 1.0, "failed_rewards": 0.0}),
        *[(False, {"correct": 0.0, "failed_rewards": 1.0})] * 3,
    ]
    env.close()
    said = capfd.readouterr().err
    assert said.count("raised ValueError") == 1
    assert "3 of 4 rewards failed and counted as 0" in said


def test_a_task_of_a_function_is_scored_too():
    class Local(bitrl.PromptTask):
        def prompt(self, random):
            return "2?", 2

        def score(self, answer, completion):
            return float(completion == str(answer))

    task = Local()
    assert [task.reward(2, text) for text in ("2", "3")] == [(1.0, False), (0.0, False)]
    task.close()


@pytest.mark.parametrize(
    "answer", [object(), (2, "b"), [(2, "b")], {3: "a"}, np.int64(5), {6, 7}, Fraction(1, 3), float("nan"), np.ones(2)]
)
def test_an_answer_that_json_would_not_keep_is_said(task, answer):
    """A score that compares with a tuple, which came as a list, would never find it equal."""
    with pytest.raises(bitrl.RunFailed, match="goes to the process that scores as JSON, which would not keep"):
        task.reward(answer, "right")


def test_a_copy_starts_a_process_of_its_own(task):
    task.reward({"n": [1, "ö"]}, "right")
    copy = pickle.loads(pickle.dumps(task))
    assert copy.reward({"n": [1, "ö"]}, "right") == (1.0, False)
    copy.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("completion", ["right", "in C"])
def test_nothing_is_left_of_a_run_that_is_killed(completion, tmp_path):
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_isolated_reward import Bad
class Long(Bad):
    time_limit = 1000.0
task = Long()
task.reward({{"n": [1, "ö"]}}, "right")
print("begun", flush=True)
task.reward({{"n": [1, "ö"]}}, {completion!r})
input()
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.2)
    children = descendants(process.pid)
    assert len(children) == 2
    process.kill()
    process.wait()
    for _ in range(300):
        if not any(alive(pid) for pid in children):
            break
        time.sleep(0.05)
    assert not any(alive(pid) for pid in children)


def descendants(pid):
    found = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*found, *(below for each in found for below in descendants(each))]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
