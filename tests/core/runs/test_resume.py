"""A run killed at any moment and resumed ends with exactly the metrics and weights of one that was not."""

import os
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest

import bitrl
from bitrl.core.events import CheckpointSkipped

OPTIONS = {
    "algo.preset": "standard",
    "algo.rollout_steps": 256,
    "run.num_envs": 4,
    "run.eval_episodes": 2,
    "run.checkpoint_every": 2,
}
RUN = {"env": "CartPole-v1", "backbone": "mlp", "steps": 3000, "options": OPTIONS}
ONE_BLOCK = {f"{part}.{name}": 1 for part in ("backbone", "critic_backbone") for name in ("layers", "threads")}
HYBRID = {
    "backbone": "bitnet",
    "critic_backbone": "int8",
    "serializer": "compact",
    "steps": 1000,
    "options": {**OPTIONS, **ONE_BLOCK, "run.checkpoint_every": 1, "run.eval_episodes": 1},
}


def contents(run):
    files = sorted((run / "checkpoints").iterdir())
    return (run / "metrics.jsonl").read_bytes(), [(file.name, file.read_bytes()) for file in files]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("straight") / "run"
    return directory, bitrl.run(out=directory, **RUN)


def unfinished(straight, run):
    """Make a run that was killed when only its summary was left to write; its last checkpoint."""
    shutil.copytree(straight, run)
    (run / "summary.json").unlink()
    return max((run / "checkpoints").iterdir())


def forked(work):
    """Start `work()` in a copy of this process, which has imported all that it needs; its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    finally:
        os._exit(0)


def start_and_kill(run, function, name, arguments):
    """Start a run in a process that is killed when it calls `function` on a file whose name starts with `name`."""
    where = {"replace": os, "unlink": Path}[function]
    original = getattr(where, function)

    def deadly(path, *others, **named):
        if Path(path).name.startswith(name):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(path, *others, **named)

    def work():
        setattr(where, function, deadly)
        bitrl.run(out=run, **arguments)

    _, status = os.waitpid(forked(work), 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_killed_again_and_again(uninterrupted, tmp_path):
    straight, summary = uninterrupted
    run, moments = tmp_path / "run", random.Random(0)
    work, kills = partial(bitrl.run, out=run, **RUN), 0
    while kills < 4:
        pid, rows = forked(work), rows_of(run)
        work = partial(bitrl.resume, run)
        # Let it get somewhere first, or it would be killed before its first rollout every time.
        while not (done := os.waitpid(pid, os.WNOHANG)[0]) and rows_of(run) <= rows:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        if done or os.waitpid(pid, os.WNOHANG)[0]:
            break
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kills += 1
    assert kills > 0
    again = bitrl.resume(run)
    assert contents(run) == contents(straight)
    assert again["eval"] == summary["eval"]
    assert again["steps"] == summary["steps"]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("replace", ".config.toml."),
        ("replace", ".000000001536.safetensors."),  # while it was written
        ("replace", ".000000003072.safetensors."),
        ("unlink", "000000002048.safetensors"),  # which the last one makes superfluous
        ("replace", ".summary.json."),
    ],
)
def test_killed_while_it_wrote_leaves_nothing_behind(uninterrupted, tmp_path, function, name):
    straight, _ = uninterrupted
    run = tmp_path / "run"
    start_and_kill(run, function, name, RUN)
    if (run / "config.toml").is_file():
        bitrl.resume(run)
    else:
        bitrl.run(out=run, **RUN)
    assert contents(run) == contents(straight)
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in straight.iterdir())


def test_killed_with_a_backbone_of_the_critics_own(tmp_path):
    straight, run = tmp_path / "straight", tmp_path / "run"
    summary = bitrl.run(out=straight, **HYBRID)
    start_and_kill(run, "replace", ".000000000768.safetensors.", HYBRID)
    assert rows_of(run) == 3
    again = bitrl.resume(run)
    assert contents(run) == contents(straight)
    assert (again["eval"], again["critic_backbone"]) == (summary["eval"], "int8")


def test_another_model_of_the_critics_is_refused(tmp_path):
    run = tmp_path / "run"
    bitrl.run(out=run, **{**HYBRID, "steps": 512})
    config = (run / "config.toml").read_text()
    changed = config.replace('format = "int8"', 'format = "int4"')
    assert changed != config
    (run / "config.toml").write_text(changed)
    message = r"its critic's backbone is not the one it was trained with \(format changed\)"
    with pytest.raises(bitrl.UsageError, match=message):
        bitrl.evaluate(run)
    (run / "summary.json").unlink()
    with pytest.raises(bitrl.UsageError, match=message):
        bitrl.resume(run)


def test_a_run_from_before_critics_had_backbones_goes_on(uninterrupted, tmp_path):
    straight, _ = uninterrupted
    run = tmp_path / "run"
    unfinished(straight, run).unlink()
    config = (run / "config.toml").read_text()
    assert config.count('critic_backbone = "none"\n') == 1
    (run / "config.toml").write_text(config.replace('critic_backbone = "none"\n', ""))
    bitrl.resume(run)
    assert contents(run) == contents(straight)
    assert bitrl.evaluate(run, episodes=1)["critic_backbone"] is None


def rows_of(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(uninterrupted, tmp_path, damage):
    straight, _ = uninterrupted
    run = tmp_path / "run"
    newest = unfinished(straight, run)
    data = bytearray(newest.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    newest.write_bytes({"truncated": data[:-9], "flipped": data, "empty": b"", "foreign": b"\x89PNG" * 99}[damage])
    skipped = []
    bitrl.resume(run, (lambda event: skipped.append(event) if isinstance(event, CheckpointSkipped) else None,))
    assert [event.path for event in skipped] == [newest]
    assert contents(run) == contents(straight)


def test_when_every_checkpoint_is_damaged_it_says_so(uninterrupted, tmp_path):
    run = tmp_path / "run"
    unfinished(uninterrupted[0], run)
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"")
    with pytest.raises(bitrl.RunFailed, match=r"every checkpoint is damaged: start the run again with --force"):
        bitrl.resume(run)


def test_a_complete_run_only_gives_its_summary(uninterrupted):
    straight, summary = uninterrupted
    before = contents(straight)
    assert bitrl.resume(straight) == summary
    assert contents(straight) == before


def test_another_model_is_refused(tmp_path):
    run = tmp_path / "run"
    bitrl.run(env="CartPole-v1", backbone="mlp", steps=512, out=run, options=OPTIONS)
    (run / "summary.json").unlink()
    config = (run / "config.toml").read_text()
    changed = config.replace("[provenance.features]\nhidden = [\n    64,", "[provenance.features]\nhidden = [\n    32,")
    assert changed != config
    (run / "config.toml").write_text(changed)
    with pytest.raises(bitrl.UsageError, match=r"its backbone is not the one it was trained with \(hidden changed\)"):
        bitrl.resume(run)


def test_an_environment_that_cannot_be_played_again_is_refused(tmp_path, monkeypatch):
    import gymnasium
    import numpy as np

    class Restless(gymnasium.Env):
        """Draws from a generator of its own, against Gymnasium's contract."""

        observation_space = gymnasium.spaces.Box(0, 1, (1,), dtype=np.float64)
        action_space = gymnasium.spaces.Discrete(2)
        generator = np.random.default_rng(0)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.generator.random(1), {}

        def step(self, action):
            return self.generator.random(1), 0.0, False, False, {}

    monkeypatch.setitem(
        gymnasium.registry, "Restless-v0", gymnasium.envs.registration.EnvSpec("Restless-v0", entry_point=Restless)
    )
    run = tmp_path / "run"
    bitrl.run(env="Restless-v0", backbone="mlp", steps=512, out=run, options={**OPTIONS, "run.eval_episodes": 0})
    (run / "summary.json").unlink()
    with pytest.raises(bitrl.RunFailed, match=r"draws random numbers outside np_random, .* or its code has changed"):
        bitrl.resume(run)
