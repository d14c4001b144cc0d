"""SmartHome-Light: an oracle succeeds, whoever does not listen fails, and the texts say what the home is like."""

import json
import re

import numpy as np
import pytest

import bitrl
from bitrl.core.environments.loading import load_serializer
from bitrl.plugins.envs import smarthome
from bitrl.plugins.envs.samples import smarthome_samples
from bitrl.plugins.envs.smarthome import ASKED, FIELDS, LEVELS, ROOMS, SmartHomeLight
from bitrl.testing import check_environment, check_serializer

NEEDS = {"bright": (0.3, 0.6), "dim": (0.05, 0.2), "dark": (0.0, 0.05), "lit": (0.15, 0.5)}


def caretaker(observation, wants):
    """The action that goes towards the least light that each room needs, given the observation and the wants."""
    rooms = observation["numbers"][1:].reshape(4, 3).astype(float)
    for room in sorted(ROOMS, key=lambda room: room not in wants):
        index = ROOMS.index(room)
        occupied, daylight, lamp = rooms[index]
        low = NEEDS[wants.get(room, "lit")][0] if room in wants or occupied else 0.0
        target = min(LEVELS, max(0, int(np.ceil((low - daylight) / 0.1 - 1e-6))))
        if target != round(lamp / 0.1):
            return 1 + 2 * index + (target < round(lamp / 0.1))
    return 0


def levels_at(level):
    """All lamps at one level."""

    def policy(observation, wants):
        lamps = np.rint(observation["numbers"][1:].reshape(4, 3)[:, 2] / 0.1).astype(int)
        return next((1 + 2 * i + (lamp > level) for i, lamp in enumerate(lamps) if lamp != level), 0)

    return policy


def play(policy, episodes=100):
    """(share of successes, mean return)"""
    env, successes, returns = SmartHomeLight(), [], []
    for seed in range(episodes):
        observation, info = env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            observation, reward, terminated, done, info = env.step(policy(observation, info["wants"]))
            assert not terminated
            assert ("success" in info) == done
            total += reward
        successes.append(info["success"])
        returns.append(total)
    return np.mean(successes), np.mean(returns)


def test_an_oracle_succeeds():
    successes, returns = play(caretaker)
    assert successes == 1.0
    assert returns > 29


@pytest.mark.parametrize(
    "deaf",
    [lambda observation, wants: caretaker(observation, {}), *map(levels_at, range(LEVELS + 1)), lambda o, w: 0],
)
def test_who_ignores_the_request_fails(deaf):
    successes, returns = play(deaf)
    assert successes < 0.15
    assert returns < 20


def test_a_step_worked_by_hand():
    env = SmartHomeLight()
    env.reset(seed=0)
    env.wants, env.met = {"study": "bright", "hall": "dark"}, {"study": 0, "hall": 0}
    env.people, env.levels, env.hour = np.array([0, 0, 1, 0], bool), np.array([1, 3, 0, 2]), 0.0  # no daylight
    _, reward, _, _, info = env.step(1)  # the study's lamp to level 2: 0.2
    # study: 0.1 short of 0.3, hall: 0.15 too much, bedroom (somebody is in it): 0.15 short; the kitchen needs nothing
    assert info["comfort"] == pytest.approx((2 * (1 - 0.1 / 0.15) + 2 * 0 + 1 * 0) / 5)
    assert info["energy"] == pytest.approx((2 + 3 + 0 + 2) / 16)
    assert reward == pytest.approx(info["comfort"] - 0.3 * info["energy"])
    env.levels, env.hour, env.sky = np.array([0, 0, 0, 0]), 12.0, 1.0
    assert env.miss("hall") == 0  # 0.06 by daylight alone is not its lamp's fault
    assert env.miss("study") == pytest.approx(0.3 - 0.22)


def test_requests_say_what_they_want():
    rng, texts = np.random.default_rng(0), set()
    patterns = {
        want: [re.escape(phrase).replace(r"\{room\}", r"(\w+)") for phrase in phrases]
        for want, phrases in ASKED.items()
    }
    for _ in range(500):
        text, wants = smarthome.request(rng)
        understood = {
            match[1]: want for want, several in patterns.items() for one in several for match in re.finditer(one, text)
        }
        assert understood == wants
        assert 2 <= len(wants) <= 3
        assert {"bright"} < set(wants.values())
        assert SmartHomeLight().observation_space["request"].contains(text)
        texts.add(text)
    assert len(texts) > 490


def test_it_keeps_the_contract():
    check_environment("SmartHome-Light")
    for serializer in ("json", "compact", "natural", "vector"):
        check_serializer(serializer, env="SmartHome-Light")


@pytest.mark.parametrize("serializer", ["json", "compact", "natural"])
def test_the_request_comes_first_and_every_number_follows(serializer):
    write = load_serializer(serializer, env="SmartHome-Light")
    observation, _ = SmartHomeLight().reset(seed=4)
    text = write(observation)
    assert observation["request"][1:] in text[: len(observation["request"]) + 15]
    numbers = [float(number) for number in re.findall(r"(?<=[ =])\d+(?:\.\d+)?", text)]
    np.testing.assert_allclose(numbers, observation["numbers"], atol=5e-4)
    if serializer == "json":
        assert list(json.loads(text)) == ["request", *(field.name for field in FIELDS)]


def test_samples_tell_the_facts_of_their_texts():
    samples = smarthome_samples(30, seed=5)
    assert [sample.text for sample in samples] == [sample.text for sample in smarthome_samples(30, seed=5)]
    for sample in samples:
        assert sample.text.startswith(f"{sample.request}. hour={sample.numbers[0]:.3f} ")
        for room, want in sample.wants.items():
            assert (room in sample.request) == (want != "unmentioned")


def test_a_run_goes_on_where_it_stopped(tmp_path):
    """Requests and numbers come back from a checkpoint, in the middle of episodes."""
    options = {"algo.rollout_steps": 16, "run.num_envs": 2, "run.eval_episodes": 3, "run.checkpoint_every": 1,
               "backbone.layers": 1}  # fmt: skip
    whole = bitrl.run("SmartHome-Light", steps=96, out=tmp_path / "whole", options=options)
    assert whole["serializer"] == "compact"
    assert 0 <= whole["eval"]["success_rate"] <= 1
    bitrl.run("SmartHome-Light", steps=96, out=tmp_path / "stopped", options=options)
    (tmp_path / "stopped" / "summary.json").unlink()
    newest = max((tmp_path / "stopped" / "checkpoints").iterdir())
    newest.unlink()

    resumed = bitrl.resume(tmp_path / "stopped")
    assert resumed["eval"] == whole["eval"]
    last = [max((tmp_path / name / "checkpoints").iterdir()).read_bytes() for name in ("whole", "stopped")]
    assert last[0] == last[1]
