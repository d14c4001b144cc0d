"""Odd environments (odd_environments.py): each trains with the right values, or one line says what is wrong with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import bitrl
from bitrl.core.acting.nested import flat
from bitrl.core.environments.crashes import reporting
from bitrl.core.environments.observation_specs import spec_of_space
from bitrl.core.environments.process_settings import check_process_settings
from bitrl.core.environments.replay import vectorise
from bitrl.core.errors import BitrlError
from bitrl.plugins.serializers.vector import Vector

sys.path.insert(0, str(Path(__file__).parent))
import odd_environments as odd

QUICK = {
    "algo.rollout_steps": 16,
    "algo.minibatch_size": 16,
    "algo.epochs": 1,
    "run.num_envs": 2,
    "run.eval_episodes": 2,
}


def train(name, out, **options):
    return bitrl.run(f"odd_environments:{name}-v0", backbone="mlp", steps=32, out=out, options=QUICK | options)


def stepped(name, count=2):
    """The parallel environments of a run, and their observations after 0 to LENGTH steps, the last being the true last
    one of each episode: [LENGTH + 1, count, …].
    """
    component = bitrl.load_environment(f"odd_environments:{name}-v0")
    envs = vectorise(reporting(component.make, name), count)
    seen = [envs.reset(seed=7)[0]]
    envs.action_space.seed(0)
    for _ in range(odd.LENGTH):
        observations, rewards, terminated, truncated, info = envs.step(envs.action_space.sample())
        assert rewards.tolist() == [1.0] * count
        seen.append(observations)
    assert (terminated | truncated).all()
    seen[-1] = np.stack([info["final_obs"][index] for index in range(count)])
    parts = component.observation_spec().parts
    if parts:
        seen = [flat(each, parts) for each in seen]
    return envs, np.stack(seen)


def expected_of(name):
    """Worked out from what the module says: [t/10, -t/10, 0] after t steps, unless the class has its own."""
    steps = range(odd.LENGTH + 1)
    own = {
        "StateNumber": [3, 4, 5, 6, 7],
        "ManyStates": [10**11 + t for t in steps],
        "Booleans": [[t % 2 == 1, True, False] for t in steps],
        "BooleanTable": [[[t % 2, 1], [0, 1]] for t in steps],
        "Counts": [[0, 0], [1, 50], [2, 100], [3, 150], [4, 200]],
        "Image": [np.full((2, 3, 3), 182 + t) for t in steps],
        "TupleSpace": [[t, 1 + t] for t in steps],
        "DictSpace": [[0.5, np.float32(t / 10), np.float32(-t / 10), 0] for t in steps],
        "NestedSpace": [(f"step {t}", [t / 10, 0, 1, t % 2, t, t - 4, t]) for t in steps],
    }
    flat_ones = {"TupleSpace": float, "DictSpace": float, "NestedSpace": [("task.words", "U20"), ("numbers", float, 7)]}
    name = "DictSpace" if name in ("SameParts", "InfoBesideParts", "GrowingParts") else name
    kind = flat_ones.get(name)
    return np.array(own.get(name, [[t / 10, -t / 10, 0] for t in steps]), kind)


READ_RIGHT = """
Plain Buffer SharedBuffer ListObservation DoublePrecision OutOfBounds StateNumber Booleans BooleanTable Counts Image
HalfSuccess IntegerReward BooleanReward ArrayReward TableReward NumpyEnds IntegerEnds NoInfo InfoShapes
StartsAtTen OneNumber Table Switches NoBounds ChangesActions AnyArguments Prints NoRenderMode ListsForTuples
CloseExits ManyStates TupleSpace DictSpace NestedSpace SameParts InfoBesideParts GrowingParts
"""
TRAINED = """
Buffer Booleans BooleanTable Counts Image TableReward IntegerEnds NoInfo InfoShapes StartsAtTen OneNumber Table Switches
NoBounds ChangesActions NothingAllowedAtTheEnd TupleSpace DictSpace NestedSpace Camera SeveralActions SeveralFromFive
SeveralSwitches NestedActions TupleActions MaskedFactors FlatMask MaskInObservation ChangesParts
SameParts InfoBesideParts GrowingParts ForbiddenRaises ForbiddenDoorRaises SecondNotReady
"""


@pytest.mark.parametrize("name", READ_RIGHT.split())
def test_what_is_odd_but_clear_is_read_right(name):
    envs, seen = stepped(name)
    space, expected = envs.single_observation_space, expected_of(name)
    dtype = expected.dtype if space.dtype is None else space.dtype
    assert seen.dtype == dtype
    for index in range(2):
        np.testing.assert_array_equal(seen[:, index], expected.astype(dtype))


@pytest.mark.parametrize("name", TRAINED.split())
def test_it_trains_and_evaluates(name, tmp_path):
    summary = train(name, tmp_path / "run")
    assert summary["steps"] == 32
    assert summary["eval"] == {"episodes": 2, "mean_return": 4.0, "std_return": 0.0}


API = r"that is the API of Gym before 0\.26; expected reset\(seed=None, options=None\)"
REFUSED = {
    "TransposedImage": r"in reset\(\): observation: expected shape \(2, 3, 3\), .* got shape \(3, 2, 3\)",
    "Shape": r"in step 3 of an episode: observation: expected shape \(3,\), as its space says, got shape \(5,\)",
    "Ragged": r"in step 2 .*: observation: expected numbers, shape \(3,\) and dtype float32, got \[0\.1, \[0\.2",
    "ScalarObservation": r"in reset\(\): observation: expected shape \(3,\), as its space says, got shape \(\)",
    "HalfNumbers": r"in step 1 .*: observation: 0\.1.* does not fit the space's dtype, int32",
    "HalfPrecision": r"in step 2 .*: observation: 80000\.0 does not fit the space's dtype, float16",
    "StateOutside": r"in step 3 .*: observation: expected an integer from 3 to 7, got 9",
    "NanAtStep3": r"in step 3 .*: observation: expected finite numbers, got nan as x2, number 2",
    "InfinityAtStep2": r"in step 2 .*: observation: expected finite numbers, got inf as x1, number 1",
    "GrowingSpace": r"got shape \(4,\); observation_space has become Box\(-1\.0, 1\.0, \(4,\), float32\) since",
    "SpaceOfEach": r"parallel environments differ: the observation_space of number 0 is Box.* number 1 is Box",
    "GraphSpace": "its observations have a Graph space, which bitrl does not read: expected Box, Discrete, .* Dict and",
    "GraphInside": 'its observations have a Graph space as "map", which bitrl does not read',
    "TupleTooShort": r"in step 2 .*: observation: expected a tuple of 2 parts, got \[",
    "KeyGone": "in step 3 .*: observation: expected the keys 'battery', 'place', 'place' is missing",
    "PartOfAnotherShape": r"in step 2 .*: observation\['my arm'\]\[1\]\['closed'\]: expected shape \(2,\)",
    "PartOfFractions": r"in step 3 .*: observation\['numbers'\]: 0\.5 does not fit the space's dtype, int64",
    "NanInside": r"in step 3 .*: observation\['my arm'\]\[0\]: expected finite numbers, got nan as number 1 counted",
    "SurrogateInside": r"in step 1 .*: observation\['task'\]\['words'\]: .* half of a surrogate pair, which is",
    "SurrogateKey": r"its observation_space has the key '\\ud800': call its parts by other strings",
    "NarrowCounts": r"its observation_space is MultiDiscrete.*, whose dtype, uint8, has no 299: give it dtype=np.int64",
    "TooLargeNumbers": r"1e\+39 as x0 is beyond float32, in which vectors are written",
    "EmptyDict": "its observation_space is an empty Dict",
    "DeepParts": r"has parts in parts, 100 levels deep: nest them less deeply",
    "EmptyPart": r"its observation_space\['more'\] is an empty Tuple",
    "NumberedKeys": "its observation_space has the key 0: call its parts by other strings",
    "NamedAlike": 'two parts of its observations are called "a.1"',
    "CommandsOfNumbers": 'the keys "observation" and "commands", which stand for .* rename one of them',
    "NoSpace": "expected an observation space, got tuple",
    "NoReward": "in step 2 of an episode: expected a number as reward, got None",
    "TextReward": "in step 1 of an episode: expected a number as reward, got '1.0'",
    "TwoRewards": r"expected a number as reward, got array\(\[1\., 2\.\]\)",
    "NanReward": r"in step 3 of an episode: expected a finite reward \(float32\), got nan",
    "HugeReward": r"expected a finite reward \(float32\), got 1e\+60",
    "EndUnsaid": "expected True or False as terminated, got None",
    "TextEnds": "expected True or False as truncated, got ''",
    "SuccessOfEach": r'in reset\(\): expected True or False as info\["success"\], got \[True, False\]',
    "MaskGone": r'in step 3 of an episode: expected info\["action_mask"\] in every step',
    "MaskTooShort": r"in step 2 .*: info\[\"action_mask\"\]\['keys'\]\[1\]: expected 0 or 1 for each of 4 values",
    "MaskOfOneFactor": r"in reset\(\): info\[\"action_mask\"\]\['keys'\]: expected 2 \+ 4 of 0 or 1, got \(\[0, 1\],\)",
    "MaskForbidsAFactor": r"in step 2 .*: its action_mask forbids every value of \['keys'\], number 1",
    "MaskInObservationTooShort": r'an "action_mask" of MultiBinary\(2\): expected a MultiBinary\(5\)',
    "MaskOfUnknownPart": "expected masks of 'gear', 'keys', 'lamps', 'push', got one of 'gaer'",
    "MaskOfThreeParts": r"in reset\(\): info\[\"action_mask\"\]: expected a mask for each of 2 parts, got 3",
    "MaskOfThreeInObservation": r'an "action_mask" of MultiBinary\(3\): expected a MultiBinary\(4\)',
    "MaskOfHalves": r"in step 2 .*: observation\['action_mask'\]: expected 0 or 1 for each action, got \[1\.0, 0\.5\]",
    "GoalBesideMask": "the keys 'action_mask', 'goal', 'observation': expected \"observation\", .* put all else into",
    "CommandsForNumbers": "the texts of its admissible commands, of which a Discrete action is one: rename one",
    "TooManyValues": "actions have 1,000,000,002 values in all, too many .* expected at most 1,000,000",
    "TooManyActions": "actions have 1,000,000,000,000 values in all, too many .* expected at most 1,000,000",
    "TextInside": r"its action_space\['say'\] is a Text space: actions of several parts are made of Box, Discrete",
    "NoActions": "its action_space is an empty Dict",
    "NumberedActions": "its action_space has the key 1: call its parts by other strings",
    "NothingInside": r"its action_space\['arm'\] is Box\(.*, which holds no numbers",
    "FourValues": rf"step\(\) returned 4 values instead of 5: {API}",
    "FourValuesLimited": rf"step\(\) did not return 5 values .*: {API}",
    "OnlyObservation": rf"reset\(\) returned array\(.*, without a dict of information: {API}",
    "NoSeed": rf"its reset\(\) takes no seed: {API}",
    "NoOptions": r"its reset\(\) takes no options: expected reset\(self, \*, seed=None, options=None\)",
    "ExitsInStep": r"crashed in step 2 of an episode: SystemExit: 0 \(",
    "ExitsInReset": r"crashed in reset\(\): SystemExit \(",
    "ExitsWhenMade": r"cannot be made: SystemExit: no licence",
    "Panics": r"crashed in step 1 of an episode: Panic: index out of bounds \(",
    "RaisesUnprintable": r"crashed in step 1 of an episode: Unprintable \(",
    "StepOfNothing": r"in step 1 .*: step\(\) returned None: expected the 5 values observation, reward, terminated",
    "InfoGenerator": r"in reset\(\): expected a dict of information, got <generator",
    "NanMetrics": r"in step 4 of an episode: info\[\"metrics\"\]: expected finite numbers by name, got 'distance': nan",
    "NothingToChoose": r"its action_space is Box\(.*, \(0,\), float32\), which holds no numbers",
    "GrowingActions": r"its action_space was Discrete\(2\) when it was made, and has become Discrete\(5\)",
    "WeightsAsMask": r'info\["action_mask"\]: expected 0 or 1 for each action, got array\(\[ 0\., -inf\]\)',
    "NothingAllowed": r'in step 2 of an episode: info\["action_mask"\] forbids every action',
    "MaskedNumbers": r"in step 2 .*: observation: expected numbers, got a masked array that lacks some of them",
    "LongNumbers": r"its observation_space has the dtype float128, which cannot be saved",
    "ManyStates": r"has 1,000,000,000,000 states, too many for one-hot vectors: use --serializer json",
    "DoublesForAll": r"torch's default dtype: expected torch\.float32, got torch\.float64, for the whole process",
    "OldGenerator": r"in reset\(\): its np_random is a numpy.random.mtrand.RandomState, whose state cannot be saved",
    "Twister": r"in reset\(\): its np_random is a numpy.random.*MT19937, whose state cannot be saved",
}


@pytest.fixture(autouse=True)
def torch_as_it_was():
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_blamed_on_the_environment(name, tmp_path):
    with pytest.raises(BitrlError) as raised:
        train(name, tmp_path / "run")
    message = str(raised.value)
    assert re.search(REFUSED[name], message), message
    assert "\n" not in message
    assert len(message) <= 500
    if name not in ("SpaceOfEach", "TooManyValues", "TooManyActions"):
        assert f"environment odd_environments:{name}-v0" in message
    if " in step " in message or " in reset()" in message:
        assert re.search(r"\(parallel environment \d, seed \d+(; BITRL_DEBUG=1 shows the traceback)?\)$", message)


def test_gradients_that_an_environment_turns_off_matter_to_a_model_that_learns(tmp_path):
    assert train("NoGradientsForAll", tmp_path / "run")["eval"]["mean_return"] == 4.0
    with pytest.raises(BitrlError, match="torch's gradients: expected on, got off, for the whole process"):
        check_process_settings("NoGradientsForAll", gradients=True)


def test_a_mask_where_there_is_nothing_to_choose_is_no_mask(tmp_path):
    train("NothingToMask", tmp_path / "run")
    bitrl.export(tmp_path / "run", tmp_path / "agent")
    agent = bitrl.load_agent(tmp_path / "agent")
    assert agent.act(agent.example)["push"].shape == (2,)


def test_a_mask_of_another_length_is_said_to_be_left_out(tmp_path, capfd):
    assert train("MaskOfThree", tmp_path / "run")["eval"]["mean_return"] == 4.0
    [line] = [line for line in capfd.readouterr().err.splitlines() if "action_mask" in line]
    assert (
        "is left out, and every action counts as admissible: expected 0 or 1 for each of 4 actions, got shape (3,)"
        in line
    )


def test_a_mask_that_a_reset_does_not_give_is_said_to_be_left_out(tmp_path, capfd):
    assert train("MaskInStepsAlone", tmp_path / "run")["eval"]["mean_return"] == 4.0
    [line] = [line for line in capfd.readouterr().err.splitlines() if "action_mask" in line]
    assert "is left out, and every action counts as admissible: give it from the first reset on" in line


def test_a_method_that_gives_masks_is_said_not_to_be_called(tmp_path, capfd):
    assert train("MaskByMethod", tmp_path / "run")["eval"]["mean_return"] == 4.0
    [line] = [line for line in capfd.readouterr().err.splitlines() if "action_masks" in line]
    assert "its action_masks() is not called, and every action counts as admissible: give what it returns as" in line


def test_numbers_far_within_their_bounds_are_told_apart():
    env = bitrl.load_environment("odd_environments:WideBounds-v0").make()
    write = bitrl.load_serializer("vector", env="odd_environments:WideBounds-v0")
    env.reset(seed=0)
    written = np.stack([write(env.step(0)[0]) for _ in range(odd.LENGTH)])
    # Dict's parts are in the order of their names: count, money. What is scaled is the count of nine alone.
    np.testing.assert_allclose(written, [[t, t / 4 - 1, t, t / 2] for t in range(1, odd.LENGTH + 1)], rtol=1e-6)


def test_numbers_of_a_wide_range_without_zero_are_scaled():
    space = gym.spaces.Box(1.7e9, 1.8e9, (1,), np.float64)  # seconds since 1970: float32 has every 128th of them
    write = Vector(None, spec_of_space(space, "clock"))
    np.testing.assert_allclose(write([1.75e9 + 30]), [6e-7], rtol=1e-4)


def test_an_agent_of_many_states_is_exported_and_acts(tmp_path):
    train("ManyStates", tmp_path / "run", **{"run.serializer": "hash"})
    bitrl.export(tmp_path / "run", tmp_path / "agent")
    assert bitrl.load_agent(tmp_path / "agent").act(10**11 + 1) in (0, 1)


CANNOT_BE_RECORDED = {
    "DrawnWithAlpha": r"an array of shape \(32, 32, 4\) and dtype uint8",
    "DrawnAsFractions": r"an array of shape \(32, 32, 3\) and dtype float32",
    "DrawnAsList": r"\[array\(\[\[\[0, 0, 0\]",
    "DrawnAsOnePixel": r"array\(\[\[\[0, 0, 0\]\]\], dtype=uint8\)",
}


@pytest.mark.parametrize("name", CANNOT_BE_RECORDED)
def test_what_cannot_be_recorded_is_shown(name, tmp_path):
    train(name, tmp_path / "run")
    with pytest.raises(BitrlError) as raised:
        bitrl.evaluate(tmp_path / "run", episodes=1, video=tmp_path / "video.mp4")
    expected = "expected RGB pixels, uint8 [height, width, 3] of 2 by 2 or more, or a string"
    assert re.search(
        f"its render\\(\\) returned {CANNOT_BE_RECORDED[name]}.*: {re.escape(expected)}", str(raised.value)
    )
    assert "\n" not in str(raised.value)


def test_a_simulator_of_which_there_can_be_one_is_trained_and_evaluated_one_at_a_time(tmp_path):
    assert train("OnePort", tmp_path / "run", **{"run.num_envs": 1})["eval"]["episodes"] == 2
    with pytest.raises(BitrlError, match="OnePort-v0 cannot be made: RuntimeError: port 5005 is in use"):
        train("OnePort", tmp_path / "two")


def test_commands_beside_numbers_need_something_that_reads_them(tmp_path):
    with pytest.raises(BitrlError, match=r'serializer "vector" writes no commands.*use --serializer hash'):
        train("Commanded", tmp_path / "run")
    assert train("Commanded", tmp_path / "run", **{"run.serializer": "hash"})["eval"]["mean_return"] == 4.0


def test_images_are_refused_as_texts_and_read_as_numbers():
    env = "odd_environments:Camera-v0"
    for name in ("json", "natural", "compact", "bins", "codes", "template", "hash"):
        with pytest.raises(
            BitrlError, match=r'observes images \("camera"\), which bitrl does not write as text'
        ) as told:
            bitrl.load_serializer(name, env=env)
        assert len(str(told.value)) <= 500
    written = bitrl.load_serializer("vector", env=env)({"camera": np.full((32, 32, 3), 255, np.uint8), "speed": 0.5})
    assert written.shape == (32 * 32 * 3 + 1,)
    assert (written[:-1].min(), written[-1]) == (1.0, 0.5)


def test_a_success_may_be_a_fraction(tmp_path):
    assert train("HalfSuccess", tmp_path / "run")["eval"]["success_rate"] == 0.5


def test_every_one_is_tried():
    tried = {*READ_RIGHT.split(), *TRAINED.split(), *REFUSED, "CloseFails", "Endless", "NoGradientsForAll"}
    tried |= {
        "Forks",
        "ForkRaises",
        "ClosesStreams",
        "Factored",
        "NothingToMask",
        "Commanded",
        "MaskOfThree",
        "MaskInStepsAlone",
        "MaskByMethod",
        "WideBounds",
        "Drawn",
        *CANNOT_BE_RECORDED,
        "OnePort",
    }
    assert tried == {name for name, kind in vars(odd).items() if isinstance(kind, type) and issubclass(kind, odd.Plain)}


def test_every_one_is_listed_with_the_report_of_it():
    listed = (Path(__file__).parent / "README.md").read_text()
    kinds = {name for name, kind in vars(odd).items() if isinstance(kind, type) and issubclass(kind, odd.Plain)}
    assert [name for name in kinds - {"Plain", "Factored"} if f"`{name}`" not in listed] == []


def test_a_failing_close_is_one_warning(tmp_path, capfd):
    summary = train("CloseFails", tmp_path / "run")
    assert summary["eval"]["mean_return"] == 4.0
    assert (tmp_path / "run" / "summary.json").is_file()
    said = capfd.readouterr().err
    assert said.count("warning: environment odd_environments:CloseFails-v0: close() failed") == 1
    assert "'NoneType' object has no attribute 'disconnect'" in said


def test_an_endless_evaluation_is_cut_and_said_to_be(tmp_path, capfd):
    summary = train("Endless", tmp_path / "run", **{"run.eval_max_steps": 25})
    assert summary["eval"] == {"episodes": 2, "mean_return": 25.0, "std_return": 0.0, "cut_episodes": 2}
    assert "step limit" not in capfd.readouterr().err
    found = bitrl.evaluate(tmp_path / "run", episodes=1, max_steps=1200)
    assert (found["mean_return"], found["cut_episodes"]) == (1200.0, 1)


def test_an_environment_without_a_step_limit_is_warned_of(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("bitrl.core.runs.evaluate.LONG", 40)
    train("Endless", tmp_path / "run", **{"run.eval_episodes": 0})
    heard = []

    def listener(event):
        heard.append((event.done, event.steps))
        if event.steps == 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bitrl.evaluate(tmp_path / "run", episodes=1, listeners=(listener,))
    said = capfd.readouterr().err
    assert said.count("has taken 40 steps, and the environment has no step limit (max_episode_steps)") == 1
    assert heard == [(0, 100), (0, 200)]


def test_it_is_warned_of_once_however_many_batches_are_played(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("bitrl.core.runs.evaluate.LONG", 5)
    monkeypatch.setattr("bitrl.core.runs.episodes.BATCH", 1)
    monkeypatch.setattr("bitrl.core.runs.evaluate.limited", lambda env: False)
    bitrl.run(backbone="mlp", steps=0, out=tmp_path / "run", options=QUICK | {"run.eval_episodes": 3})
    assert capfd.readouterr().err.count("has taken 5 steps, and the environment has no step limit") == 1


def in_a_process(name, tmp_path):
    """`bitrl run` of an environment → (exit code, stdout, stderr, rows of metrics.jsonl)."""
    settings = [word for item in QUICK.items() for word in ("-o", "{}={}".format(*item))]
    done = subprocess.run(
        [sys.executable, "-m", "bitrl", "run", "--env", f"odd_environments:{name}-v0", "--backbone", "mlp",
         "--steps", "64", "--out", str(tmp_path / "run"), *settings],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)}, capture_output=True, text=True,
    )  # fmt: skip
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    return done.returncode, done.stdout, done.stderr, [json.loads(row)["step"] for row in rows]


@pytest.mark.parametrize("name", ["Forks", "ForkRaises"])
def test_a_child_that_an_environment_forked_does_not_train(tmp_path, name):
    code, said, told, steps = in_a_process(name, tmp_path)
    assert (code, steps) == (0, [16, 32, 48, 64])
    assert said.count("how it learned is in") == 1
    [line] = [line for line in told.splitlines() if "forked" in line]
    assert f"odd_environments:{name}-v0" in line
    assert "os._exit()" in line


def test_an_environment_that_closes_the_streams_does_not_keep_the_result_from_being_said(tmp_path):
    code, said, told, steps = in_a_process("ClosesStreams", tmp_path)
    assert (code, steps) == (0, [16, 32, 48, 64])
    assert said.count("how it learned is in") == 1
    assert "64 of 64 steps" in told
