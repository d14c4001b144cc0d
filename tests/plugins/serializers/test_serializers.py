"""What each serializer writes, word for word, and what holds for every one of them."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bitrl
from bitrl.core.interfaces import Field, ObservationSpec
from bitrl.plugins.serializers import TextOptions
from bitrl.plugins.serializers.compact import Compact
from bitrl.plugins.serializers.json import JSON
from bitrl.plugins.serializers.natural import Natural
from bitrl.plugins.serializers.numbers import decimals_of
from bitrl.plugins.serializers.vector import Vector

CARTPOLE = [0.0312, -0.52, 0.0119, 1.204]
WRITTEN = {
    ("json", "CartPole-v1"): '{"cart_position": 0.031, "cart_velocity": -0.520, "pole_angle": 0.012, '
    '"pole_velocity": 1.204}',
    ("compact", "CartPole-v1"): "x=0.031 v=-0.520 angle=0.012 spin=1.204",
    ("natural", "CartPole-v1"): "The cart is right of the centre by 0.031 m, moving left at 0.520 m/s. "
    "The pole leans right by 0.012 rad, turning right at 1.204 rad/s.",
}


@pytest.mark.parametrize(("name", "env"), WRITTEN)
def test_cartpole_word_for_word(name, env):
    assert bitrl.load_serializer(name, env=env)(np.array(CARTPOLE, np.float32)) == WRITTEN[name, env]


def test_the_other_classic_tasks_have_sentences_of_their_own():
    acrobot = bitrl.load_serializer("natural", env="Acrobot-v1")
    assert acrobot([1.0, 0.0, 0.5, -0.5, -1.0, 2.0]) == (
        "The first link has cosine 1.000 and sine 0.000, turning back at 1.000 rad/s. "
        "The second link has cosine 0.500 and sine -0.500, turning forward at 2.000 rad/s."
    )
    car = bitrl.load_serializer("natural", env="MountainCar-v0")
    assert car([-0.5, -0.0123]) == "The car is at -0.500, moving left at 0.0123."


def test_other_environments_get_their_fields_names_and_units():
    spec = ObservationSpec("Boiler-v0", (Field("water_level", 0, 1, "m"), Field("heat")))
    assert Natural(TextOptions(), spec)([0.5, -3.0]) == "The water level is 0.500 m, the heat is -3.000."
    assert Compact(TextOptions(), spec)([0.5, -3.0]) == "water_level=0.500 heat=-3.000"
    assert JSON(TextOptions(), spec)([0.5, -3.0]) == '{"water_level": 0.500, "heat": -3.000}'


def test_without_an_environment_fields_are_numbered():
    assert bitrl.load_serializer("json")([1, 2.5]) == '{"x0": 1.000, "x1": 2.500}'
    assert bitrl.load_serializer("compact", decimals=0)([1, 2.6]) == "x0=1 x1=3"


def test_a_discrete_observation_is_one_integer():
    assert bitrl.load_serializer("json", env="FrozenLake-v1")(5) == '{"state": 5}'
    assert bitrl.load_serializer("natural", env="FrozenLake-v1")(np.int64(5)) == "The state is 5."
    lake = bitrl.load_serializer("vector", env="FrozenLake-v1")
    np.testing.assert_array_equal(lake(5), np.eye(16)[5])


def test_small_bounds_get_more_decimals():
    assert decimals_of(Field("v", -0.07, 0.07), None) == 4
    assert decimals_of(Field("x", -4.8, 4.8), None) == 3
    assert decimals_of(Field("x"), None) == 3
    assert decimals_of(Field("v", -0.07, 0.07), 1) == 1


def test_a_count_of_numbers_that_does_not_fit_is_refused():
    with pytest.raises(bitrl.UsageError, match="environment CartPole-v1: expected an observation of 4 numbers, got 3"):
        bitrl.load_serializer("json", env="CartPole-v1")([1, 2, 3])


numbers = st.floats(-1e6, 1e6, width=32)


@given(st.lists(numbers, min_size=4, max_size=4))
def test_json_is_json_and_keeps_every_number_to_its_decimals(observation):
    text = bitrl.load_serializer("json", env="CartPole-v1")(observation)
    read = json.loads(text)
    assert list(read) == ["cart_position", "cart_velocity", "pole_angle", "pole_velocity"]
    np.testing.assert_allclose(list(read.values()), observation, atol=0.0005001, rtol=0)


@given(st.lists(numbers, min_size=4, max_size=4))
def test_the_sentence_keeps_every_number_with_its_sign(observation):
    text = bitrl.load_serializer("natural", env="CartPole-v1")(observation)
    sizes = [float(number) for number in re.findall(r"\d+\.\d+", text)]
    signs = [-1 if word == "left" else 1 for word in re.findall("left|right", text)]
    np.testing.assert_allclose(np.multiply(sizes, signs), observation, atol=0.0005001, rtol=0)


def test_what_is_no_number_is_still_json():
    text = bitrl.load_serializer("json", env="MountainCar-v0")([float("nan"), float("-inf")])
    assert json.loads(text) == {"position": None, "velocity": None}


def test_nothing_is_never_negative():
    assert bitrl.load_serializer("compact", env="MountainCar-v0")([-0.0001, -0.0]) == "x=0.000 v=0.0000"


@given(st.lists(st.lists(numbers, min_size=4, max_size=4), min_size=1, max_size=5))
def test_a_batch_is_its_observations_one_by_one(observations):
    array = np.array(observations, np.float32)
    for name in ("json", "natural", "compact"):
        serializer = bitrl.load_serializer(name, env="CartPole-v1")
        assert serializer.batch(array) == [serializer(observation) for observation in array]
    vector = bitrl.load_serializer("vector", env="CartPole-v1")
    np.testing.assert_array_equal(vector.batch(array), [vector(observation) for observation in array])


def test_vectors_are_scaled_by_their_bounds_and_left_alone_without_any():
    spec = ObservationSpec("Boiler-v0", (Field("level", 0, 4), Field("heat"), Field("fixed", 2, 2)))
    np.testing.assert_allclose(Vector(None, spec)([1.0, 7.0, 2.0]), [-0.5, 7.0, 2.0])
    low = bitrl.load_serializer("vector", env="CartPole-v1")([-4.8, -3.0, -0.419, -3.0])
    np.testing.assert_allclose(low, -1, rtol=1e-6)
    assert low.dtype == np.float32


def test_integers_are_written_as_integers():
    """Of a space of integers or booleans; floats keep their decimals."""
    from gymnasium.spaces import Box, MultiBinary, MultiDiscrete

    from bitrl.core.environments.observation_specs import spec_of_space
    from bitrl.core.options import parse
    from bitrl.core.registry import registry

    def written(name, space, observation):
        record = registry().find("serializer", name)
        return record.load()(parse(record.options, {}, "serializer"), spec_of_space(space, "Odd-v0"))(observation)

    image = Box(0, 255, (2,), np.uint8)
    assert written("json", image, np.array([182, 0], np.uint8)) == '{"x0": 182, "x1": 0}'
    assert written("compact", image, np.array([182, 0], np.uint8)) == "x0=182 x1=0"
    assert written("natural", image, np.array([182, 0], np.uint8)) == "The x0 is 182, the x1 is 0."
    assert written("json", Box(-9, 9, (1,), np.int64), np.array([-7])) == '{"x0": -7}'
    assert written("json", Box(0, 1, (1,), np.bool_), np.array([True])) == '{"x0": 1}'
    assert written("json", MultiBinary(2), np.array([1, 0], np.int8)) == '{"x0": 1, "x1": 0}'
    assert written("json", MultiDiscrete([5, 300]), np.array([4, 299])) == '{"x0": 4, "x1": 299}'
    assert written("json", Box(0, 255, (1,), np.float32), np.array([182.0])) == '{"x0": 182.000}'
    assert written("vector", image, np.array([255, 0], np.uint8)).tolist() == [1.0, -1.0]
    limits = np.iinfo(np.int64)
    unbounded = spec_of_space(Box(limits.min, limits.max, (1,), np.int64), "Odd-v0")
    assert (unbounded.fields[0].low, unbounded.fields[0].high) == (None, None)


def test_vectors_of_another_count_or_state_are_refused():
    """One number was spread over all four; state -1 was the last one."""
    vector = bitrl.load_serializer("vector", env="CartPole-v1")
    for one in ([0.1], [0.0] * 5):
        with pytest.raises(
            bitrl.UsageError, match=rf"CartPole-v1: expected an observation of 4 numbers, got {len(one)}"
        ):
            vector(one)
    assert vector.batch(np.zeros((0, 4))).shape == (0, 4)
    lake = bitrl.load_serializer("vector", env="FrozenLake-v1")
    assert lake.batch(np.array([15, 0])).argmax(axis=1).tolist() == [15, 0]
    for number in (-1, 16):
        with pytest.raises(bitrl.UsageError, match=rf"expected observations from 0 to 15, got {number} to {number}"):
            lake(number)
