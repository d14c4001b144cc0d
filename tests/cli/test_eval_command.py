"""`bitrl eval --show` and `--video`: the first episode as it was, beside results that are the same as ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from PIL import Image

import bitrl as package
from bitrl.cli.eval import MOST_SHOWN, _lines
from bitrl.core.runs.parts import EVALUATION, spawn_seeds
from bitrl.core.runs.video import page
from bitrl.core.runs.watch import Step
from bitrl.plugins.envs.smarthome import SmartHomeLight


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a short run in an environment by name."""
    made = {}

    def run(env="CartPole-v1", backbone="bitnet", serializer="json"):
        if env not in made:
            made[env] = tmp_path_factory.mktemp("runs") / "run"
            options = {"run.eval_episodes": 2, "run.num_envs": 2, "algo.rollout_steps": 16}
            options |= {"backbone.layers": 1, "backbone.threads": 1} if backbone == "bitnet" else {}
            package.run(
                env, backbone=backbone, serializer=serializer, steps=32, out=made[env], options=options
            )  # enough to have a checkpoint
        return made[env]

    return run


def test_shown_is_the_first_episode_as_the_model_reads_it(bitrl, run) -> None:
    plain = json.loads(bitrl("eval", run(), "--json").out)
    done = bitrl("eval", run(), "--json", "--show")
    found = json.loads(done.out)
    steps = found.pop("first_episode")
    assert found == plain
    assert sum(step["reward"] for step in steps) == found["returns"][0]
    # Played again by hand, the actions lead through the same states.
    env, write = gymnasium.make("CartPole-v1"), package.load_serializer("json", env="CartPole-v1")
    observation, _ = env.reset(seed=spawn_seeds(0, EVALUATION, 1)[0])
    over = False
    for step in steps:
        assert not over
        assert step["state"] == write(observation)
        observation, reward, terminated, truncated, _ = env.step(step["action"])
        assert step["reward"] == reward
        assert step["action_name"] == ("push left", "push right")[step["action"]]
        over = terminated or truncated
    assert over

    lines = bitrl("eval", run(), "--show", "--episodes", 1).out.splitlines()
    shown = steps[:MOST_SHOWN]
    width = len(str(len(shown)))
    expected = [
        f"{number:>{width}}  {step['state']} → {step['action_name']}, reward {step['reward']:g}"
        for number, step in enumerate(shown, 1)
    ]
    assert lines[: len(shown)] == expected
    assert lines[-1].startswith("CartPole-v1: mean return")
    assert len(lines) == len(shown) + (2 if len(steps) > MOST_SHOWN else 1)


def test_a_long_episode_is_cut_short(bitrl, run) -> None:
    lines = bitrl("eval", run("Pendulum-v1", "mlp", "vector"), "--show", "--episodes", 1).out.splitlines()
    assert len(lines) == MOST_SHOWN + 2
    assert lines[MOST_SHOWN] == "… and 100 more steps (--json prints them all)"
    assert all(line.lstrip(" 0123456789").startswith("[") and " → [" in line for line in lines[:MOST_SHOWN])


def test_a_step_is_one_line_whatever_is_in_it() -> None:
    assert _lines(1, 1, Step("a\nkitchen\x1b[2J", 3, -0.5)) == "1  a\\nkitchen\\x1b[2J → 3, reward -0.5"
    assert _lines(7, 3, Step("a", 3, 0.0, "turn left")) == "  7  a → turn left, reward 0"
    assert _lines(1, 1, Step([0.03125, -1.0], [0.5], 1.0)) == "1  [0.0312, -1] → [0.5], reward 1"


def test_on_a_narrow_terminal_a_state_is_wrapped_between_words_and_what_was_done_stands_below(monkeypatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    state = "the kitchen has a pepper-mill and an open fridge"
    assert _lines(3, 2, Step(state, 0, 1.0, "open")).splitlines() == [
        " 3  the kitchen has a pepper-mill and an",
        "    open fridge",
        "    → open, reward 1",
    ]


def test_a_video_shows_the_first_episode_and_changes_nothing(bitrl, run, tmp_path) -> None:
    plain = json.loads(bitrl("eval", run(), "--json").out)
    file = tmp_path / "video.gif"
    done = bitrl("eval", run(), "--video", file, "--json")
    assert json.loads(done.out) == {**plain, "video": str(file)}
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    env.reset(seed=spawn_seeds(0, EVALUATION, 1)[0])
    with Image.open(file) as image:
        assert image.n_frames == plain["returns"][0] + 1
        shown = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(shown - env.render()).mean() < 1
    assert list(tmp_path.iterdir()) == [file]


def test_recording_needs_no_screen_and_does_not_mention_it(run, tmp_path) -> None:
    program = "from bitrl.cli import main; main()"
    command = [sys.executable, "-c", program, "eval", run(), "--video", tmp_path / "video.gif", "--episodes", "1"]
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "SDL_VIDEODRIVER")
    environment = {name: value for name, value in os.environ.items() if name not in screens}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == ""
    assert "video of the first episode" in done.stdout


def test_an_environment_that_renders_text_is_recorded_as_text(bitrl, run, tmp_path) -> None:
    file = tmp_path / "video.gif"
    plain = json.loads(bitrl("eval", run("SmartHome-Light"), "--video", file, "--json").out)
    env = SmartHomeLight("ansi")
    env.reset(seed=spawn_seeds(0, EVALUATION, 1)[0])
    with Image.open(file) as image:
        assert (image.n_frames, image.info["duration"]) == (36 + 1, 1000)
        shown = np.asarray(image.convert("RGB")).astype(int)
    assert plain["video"] == str(file)
    assert np.abs(shown - page(env.render())).mean() < 1


@pytest.mark.parametrize(
    ("screen", "chosen", "used"), [("", None, "egl"), ("", "osmesa", "osmesa"), (":0", None, None)]
)
def test_without_a_screen_mujoco_draws_without(bitrl, run, tmp_path, monkeypatch, screen, chosen, used) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", screen)
    monkeypatch.setenv("MUJOCO_GL", chosen or "")
    if chosen is None:
        monkeypatch.delenv("MUJOCO_GL")
    bitrl("eval", run(), "--video", tmp_path / "video.gif")
    assert os.environ.get("MUJOCO_GL") == used


@pytest.mark.parametrize(
    ("env", "args", "error"),
    [
        ("SmartHome-Light", "--video a.mp4", "SmartHome-Light cannot be recorded: it renders human, a video"),
        ("CartPole-v1", "--video a.avi", "a.avi: --video must end in .mp4 or .gif"),
        ("CartPole-v1", "--video nowhere/a.gif", "nowhere/a.gif: there is no folder nowhere"),
    ],
)
def test_what_cannot_be_recorded_is_refused_in_one_line(bitrl, run, tmp_path, monkeypatch, env, args, error) -> None:
    monkeypatch.chdir(tmp_path)
    directory = run(env)
    monkeypatch.setattr("bitrl.plugins.envs.smarthome.SmartHomeLight.metadata", {"render_modes": ["human"]})
    done = bitrl("eval", directory, *args.split())
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert error in done.err
    assert not list(tmp_path.iterdir())


def test_an_environment_that_fails_to_render_is_reported_in_one_line(bitrl, run, tmp_path, monkeypatch) -> None:
    def render(self) -> None:
        raise RuntimeError("no display:\nset one up")

    monkeypatch.setattr("gymnasium.envs.classic_control.cartpole.CartPoleEnv.render", render)
    done = bitrl("eval", run(), "--video", tmp_path / "a.gif", "--quiet")
    assert (done.code, done.out) == (1, "")
    assert done.err == "Error: environment CartPole-v1 could not be rendered: RuntimeError: no display: set one up\n"
    assert not list(tmp_path.iterdir())


def test_showing_no_episodes_is_refused(run) -> None:
    from bitrl.core.runs.evaluate import evaluate

    with pytest.raises(package.UsageError, match="--episodes N"):
        evaluate(run(), episodes=0, show=print)
