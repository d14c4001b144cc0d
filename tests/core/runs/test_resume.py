"""A run killed at any moment and resumed ends with exactly the metrics and weights of one that was not."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bitrl
from bitrl.core.events import CheckpointSkipped

OPTIONS = {
    "algo.preset": "standard",
    "algo.rollout_steps": 512,
    "run.num_envs": 4,
    "run.eval_episodes": 5,
    "run.checkpoint_every": 2,
}
START = f"""
import sys, bitrl
bitrl.run(env=sys.argv[2], backbone="mlp", steps=6000, out=sys.argv[1], options={OPTIONS!r})
"""
KILLED = """
import json, os, pathlib, signal, sys, bitrl

def deadly(function, name):
    def call(path, *others, **named):
        if pathlib.Path(path).name.startswith(name):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(path, *others, **named)
    return call

where = {"replace": os, "unlink": pathlib.Path}[sys.argv[2]]
setattr(where, sys.argv[2], deadly(getattr(where, sys.argv[2]), sys.argv[3]))
bitrl.run(out=sys.argv[1], **json.loads(sys.argv[4]))
"""
RESUME = """
import sys
from pathlib import Path
import bitrl
bitrl.resume(Path(sys.argv[1]))
"""


RUN = {"env": "CartPole-v1", "backbone": "mlp", "steps": 6000, "options": OPTIONS}
ONE_BLOCK = {f"{part}.{name}": 1 for part in ("backbone", "critic_backbone") for name in ("layers", "threads")}
HYBRID = {
    "backbone": "bitnet",
    "critic_backbone": "int8",
    "serializer": "compact",
    "steps": 2000,
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


def start_and_kill(run, function, name, arguments):
    """Start a run in a process that is killed when it calls `function` on a file whose name starts with `name`."""
    command = [sys.executable, "-c", KILLED, run, function, name, json.dumps(arguments)]
    done = subprocess.run(command, cwd=run.parent, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_killed_again_and_again(uninterrupted, tmp_path):
    straight, summary = uninterrupted
    run, moments = tmp_path / "run", random.Random(0)
    code, kills = START, 0
    while kills < 4:
        process = subprocess.Popen([sys.executable, "-c", code, str(run), "CartPole-v1"], cwd=tmp_path)
        while not (run / "config.toml").is_file():
            time.sleep(0.01)
        code = RESUME
        rows = rows_of(run)
        # Let it get somewhere first, or it would be killed while it imports torch every time.
        while process.poll() is None and rows_of(run) <= rows:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
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
        ("replace", ".000000003072.safetensors."),  # while it was written
        ("replace", ".000000006144.safetensors."),
        ("unlink", "000000004096.safetensors"),  # which the last one makes superfluous
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
    start_and_kill(run, "replace", ".000000001536.safetensors.", HYBRID)
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
    with pytest.raises(bitrl.RunFailed, match=r"draws random numbers outside np_random"):
        bitrl.resume(run)
