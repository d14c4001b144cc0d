"""What is known of observations by their space alone: names, bounds, texts and images."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from bitrl.core.environments.observation_specs import spec_of_space
from bitrl.core.errors import UsageError


def named(space):
    return [field.name for field in spec_of_space(space, "Odd-v0").fields]


def test_numbers_are_called_by_the_keys_that_lead_to_them():
    arm = Dict({"joints": Box(-1, 1, (2,)), "is closed": Box(0, 1, (), np.bool_)})
    assert named(Dict({"arm": arm, "pair": Tuple((Discrete(2), MultiBinary(1)))})) == [
        "arm.is_closed", "arm.joints.0", "arm.joints.1", "pair.0", "pair.1.0",
    ]  # fmt: skip
    assert named(Tuple((Discrete(2), Box(-1, 1, (2,))))) == ["x0", "x1.0", "x1.1"]
    assert named(Dict({"3d": Box(-1, 1, (1, 1))})) == ["x3d.0"]
    assert named(MultiDiscrete([[2, 2], [3, 3]])) == ["x0", "x1", "x2", "x3"]


def test_bounds_are_those_of_the_parts():
    space = Dict(
        {
            "far": Box(np.array([-np.inf, 0], np.float32), np.array([np.inf, 2], np.float32)),
            "mode": Discrete(4, start=-1),
            "row": MultiDiscrete([2, 5], start=[0, 10]),
        }
    )
    found = [(field.low, field.high, field.decimals) for field in spec_of_space(space, "Odd-v0").fields]
    assert found == [(None, None, None), (0, 2, None), (-1, 2, 0), (0, 1, 0), (10, 14, 0)]


def test_texts_are_named_apart():
    spec = spec_of_space(Dict({"said": Dict({"words": Text(9)}), "place": Box(-1, 1, (1,))}), "Odd-v0")
    assert (spec.texts, [field.name for field in spec.fields]) == (("said.words",), ["place.0"])
    assert spec.parts == (("place",), ("said", "words"))
    alone = spec_of_space(Tuple((Text(5), Text(5))), "Odd-v0")
    assert (alone.texts, alone.fields) == (("x0", "x1"), ())


def test_bytes_in_two_dimensions_are_an_image_if_they_are_many():
    def images(shape, high=255, dtype=np.uint8):
        return spec_of_space(Box(0, high, shape, dtype), "Odd-v0").images

    assert images((32, 32)) == images((4, 84, 84)) == images((210, 160, 3)) == ("observation",)
    assert images((7, 7, 3)) == images((4096,)) == images((32, 32), high=10) == images((64, 64), 1, np.float32) == ()
    parts = Dict({"eye": Dict({"left": Box(0, 255, (40, 40, 3), np.uint8)}), "speed": Box(-1, 1, ())})
    assert spec_of_space(parts, "Odd-v0").images == ("eye.left",)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Dict({"numbers": Text(5), "place": Box(-1, 1, (1,))}), 'two parts of its observations are called "numbers"'),
        (Dict({"a b": Box(-1, 1, ()), "a_b": Box(-1, 1, ())}), 'two parts of its observations are called "a_b"'),
        (Dict({"place": Box(-1, 1, (0,))}), "its observations hold neither numbers nor texts"),
        (Dict({"[0]": Box(-1, 1, (1,))}), r"has the key '\[0\]': call its parts by other strings"),
    ],
)
def test_parts_that_cannot_be_told_apart_are_refused(space, message):
    with pytest.raises(UsageError, match=message):
        spec_of_space(space, "Odd-v0")
