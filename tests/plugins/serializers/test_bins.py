"""The serializer bins: hand-worked states, and what holds for every state."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bitrl
from bitrl.core.environments.observation_specs import FIELDS
from bitrl.core.interfaces import Field, ObservationSpec
from bitrl.plugins.backbones.files.tokenizer import pre_tokenizer
from bitrl.plugins.envs.smarthome import SmartHomeLight
from bitrl.plugins.serializers import BinsOptions
from bitrl.plugins.serializers.bins import Bins
from bitrl.testing import check_serializer

numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)


def test_cartpole_worked_by_hand():
    """99 × 0.0312 / 4.8 = 0.64, 99 × -0.52 / 3 = -17.16, 99 × 0.0119 / 0.419 = 2.81, 99 × 1.204 / 3 = 39.73."""
    write = bitrl.load_serializer("bins", env="CartPole-v1")
    assert write(np.array([0.0312, -0.52, 0.0119, 1.204], np.float32)) == "1 -17 3 40"
    assert bitrl.load_serializer("bins", env="CartPole-v1", bins=3)([4.0, -4.0, 0.2, -1.4]) == "1 -1 0 0"
    assert bitrl.load_serializer("bins", env="CartPole-v1", bins=1999)([4.8, -2.4, 0.0, 1e30]) == "999 -799 0 999"


def test_bounds_that_are_not_centred():
    """MountainCar's positions lie in -1.2 to 0.6: the middle is -0.3 and a step 0.9 / 99."""
    write = bitrl.load_serializer("bins", env="MountainCar-v0")
    assert write([-0.3, 0.0]) == "0 0"
    assert write([-1.2, -0.07]) == "-99 -99"
    assert write([0.6, 0.07]) == "99 99"
    assert write([-0.3 + 0.9 / 99 * 41, -0.07 / 99 * 12]) == "41 -12"


def test_fields_without_bounds_have_the_documented_range():
    fields = (Field("any"), Field("above", low=2.0), Field("below", high=2.0), Field("fixed", 2.0, 2.0))
    spec = ObservationSpec("Boiler-v0", fields)
    write = Bins(BinsOptions(), spec)
    assert write([-10, 2, -18, 2]) == "-99 -99 -99 -99"
    assert write([0, 12, -8, 12]) == "0 0 0 0"
    assert write([10, 22, 2, 22]) == "99 99 99 99"
    assert Bins(BinsOptions(unbounded=100.0), spec)([100, 2, 2, 202]) == "99 -99 99 99"
    assert bitrl.load_serializer("bins")([10.0, -20.0, 0.0]) == "99 -99 0"


def test_a_discrete_state_stays_as_it_is():
    taxi = Bins(BinsOptions(), ObservationSpec("Taxi", (Field("state", 0, 499),), discrete=500))
    assert len({taxi(state) for state in range(500)}) == 500
    assert taxi.batch(np.array([7, 499])) == ["7", "499"]


def test_texts_come_first():
    write = bitrl.load_serializer("bins", env="SmartHome-Light")
    observation, _ = SmartHomeLight().reset(seed=4)
    text, row = write(observation).rsplit(". ", 1)
    assert text == observation["request"]
    assert len(row.split()) == 13


def test_what_is_no_number_and_what_is_beyond_the_bounds():
    assert bitrl.load_serializer("bins", env="MountainCar-v0")([math.nan, -math.inf]) == "nan -99"
    assert bitrl.load_serializer("bins", env="MountainCar-v0")([1.7e308, -1.7e308]) == "99 -99"


@given(st.lists(st.lists(numbers, min_size=6, max_size=6), max_size=5))
def test_a_batch_is_its_observations_one_by_one_and_numbers_stay_in_range(observations):
    array = np.array(observations, np.float32).reshape(-1, 6)
    write = bitrl.load_serializer("bins", env="Acrobot-v1")
    texts = write.batch(array)
    assert texts == [write(observation) for observation in array]
    for text, observation in zip(texts, observations, strict=True):
        for word, number in zip(text.split(" "), observation, strict=True):
            assert word == "nan" if math.isnan(number) else -99 <= int(word) <= 99


@given(st.integers(1, 999), st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.data())
def test_the_number_read_back_is_within_half_a_step(end, low, width, data):
    field = Field("x", low, low + width)
    number = data.draw(st.floats(field.low, field.high))
    place = int(Bins(BinsOptions(bins=2 * end + 1), ObservationSpec("X-v0", (field,)))([number]))
    step = (field.high - field.low) / (2 * end)
    assert abs(field.low + (place + end) * step - number) <= step / 2 + 1e-9 * (abs(low) + width)


@given(st.lists(st.integers(-99, 99), min_size=1, max_size=30))
def test_a_number_is_one_piece_to_the_starters_tokenizer(places):
    fields = tuple(Field(f"x{index}", -99.0, 99.0) for index in range(len(places)))
    text = Bins(BinsOptions(), ObservationSpec("X-v0", fields))(places)
    pieces = [piece for piece, _ in pre_tokenizer("bitrl-2").pre_tokenize_str(text)]
    assert pieces[::2] == list(map(str, places))
    assert len(pieces) == 2 * len(places) - 1


@pytest.mark.parametrize("env", ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"])
def test_a_mujoco_state_is_at_most_60_tokens_as_bitrl_cuts_text(env):
    fields = FIELDS[env]
    text = Bins(BinsOptions(), ObservationSpec(env, fields))([field.low for field in fields])
    assert 15 <= len(pre_tokenizer("bitrl-2").pre_tokenize_str(text)) <= 60


def test_what_is_refused():
    with pytest.raises(bitrl.UsageError, match="environment CartPole-v1: expected an observation of 4 numbers, got 3"):
        bitrl.load_serializer("bins", env="CartPole-v1")([1, 2, 3])
    with pytest.raises(bitrl.UsageError, match="environment CartPole-v1: expected an observation of 4 numbers, got 3"):
        bitrl.load_serializer("bins", env="CartPole-v1").batch(np.zeros((2, 3)))
    with pytest.raises(bitrl.UsageError, match="is a grid, not a list of numbers"):
        Bins(BinsOptions(), ObservationSpec("BabyAI-GoTo-v0", texts=("mission",), grid=True))
    for bins in (1, 200, 2001):
        with pytest.raises(bitrl.UsageError, match=r"serializer\.bins: expected an integer that is odd"):
            bitrl.load_serializer("bins", bins=bins)


@pytest.mark.parametrize("env", ["SmartHome-Light", "Pendulum-v1"])
def test_it_keeps_the_contract(env):
    check_serializer("bins", env=env)
