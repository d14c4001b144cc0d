"""An algorithm's actions are checked before an environment gets them, which would be blamed for what comes of them."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from bitrl.core.acting.admissible import AdmissibleActions
from bitrl.core.environments.action_checks import admitted, check_admissible, checked_actions
from bitrl.core.environments.action_spaces import factored_actions
from bitrl.core.environments.observations import as_array
from bitrl.core.errors import RunFailed

UNBOUNDED = Box(-np.inf, np.inf, (2,), np.float32)


@pytest.mark.parametrize("number", [np.inf, -np.inf, 1e300, np.nan])
def test_infinite_actions_are_refused_where_a_space_has_no_bounds(number):
    assert checked_actions("it", UNBOUNDED, np.array([[3e38, 0.0]]), 1).tolist() == [[np.float32(3e38), 0.0]]
    with pytest.raises(RunFailed, match=r"^it chose "):
        checked_actions("it", UNBOUNDED, np.array([[0.0, number]]), 1)


@pytest.mark.parametrize("actions", [None, "ab", ["a"], ["a", 1], [["a"], ["b"]]])
def test_texts_are_one_for_each_environment(actions):
    assert checked_actions("it", Text(5), ["a", "bc"], 2) == ["a", "bc"]
    with pytest.raises(RunFailed, match="expected 2 strings"):
        checked_actions("it", Text(5), actions, 2)


ARM = Dict({"gear": Discrete(3, start=2), "move": Tuple((Box(-1, 1, (2,)), MultiBinary(2)))})
KEYS = MultiDiscrete([2, 4], start=[0, 5])


def of_arm(gear=2, move=(0.5, 0.0), lamps=(1, 0)):
    return {"gear": gear, "move": (np.array(move), np.array(lamps))}


def test_actions_of_several_parts_become_records_of_the_dtypes_of_their_space():
    sent = checked_actions("it", ARM, [of_arm(), of_arm(gear=4)], 2)
    assert sent.dtype == np.array([as_array(ARM, ARM.sample())]).dtype
    assert (sent["gear"].tolist(), sent["move"]["[0]"].tolist()) == ([2, 4], [[0.5, 0.0]] * 2)
    assert checked_actions("it", ARM, sent, 2).tobytes() == sent.tobytes()
    assert checked_actions("it", KEYS, [[1, 8], [0, 5]], 2).tolist() == [[1, 8], [0, 5]]
    assert checked_actions("it", MultiBinary(2), np.array([[True, False]]), 1).dtype == np.int8


@pytest.mark.parametrize(
    ("space", "actions", "message"),
    [
        (ARM, [of_arm(gear=5)], r'^it, in the part "gear", chose the action 5, which is not in Discrete\(3, start=2\)'),
        (ARM, [of_arm(move=(0.5, 2.0))], r'^it, in the part "move", in the part "\[0\]", chose the action '),
        (ARM, [of_arm(lamps=(1, 2))], "chose the action .* which is not in MultiBinary"),
        (ARM, [of_arm(gear=2.5)], "chose actions of shape .* expected integers"),
        (ARM, [{"gear": 2}], "expected 1 actions of Dict"),
        (ARM, None, "expected 1 actions of Dict"),
        (ARM, np.zeros((1, 3)), "expected 1 actions of Dict"),
        (ARM, [of_arm(), of_arm()], r"chose actions of shape \(2,\)"),
        (KEYS, [[1, 9]], r"^it chose the action array\(\[1, 9\]\), which is not in MultiDiscrete"),
        (KEYS, [[1]], r"chose actions of shape \(1, 1\).*: expected integers of shape \(1, 2\)"),
        (KEYS, [[1.0, 5.0]], "expected integers"),
    ],
)
def test_actions_that_are_not_in_their_part_are_refused(space, actions, message):
    with pytest.raises(RunFailed, match=message):
        checked_actions("it", space, actions, 1)


def test_the_factor_whose_mask_does_not_admit_an_action_is_found():
    mask = factored_actions(ARM).flat_mask({"gear": [1, 0, 1], "move": (None, [1, 2])})[None]
    allowed, forbidden = (checked_actions("it", ARM, [of_arm(gear=gear)], 1) for gear in (4, 3))
    check_admissible("it", ARM, allowed, AdmissibleActions(mask))
    with pytest.raises(RunFailed, match=r"^it chose the action \{'gear': 3, .*, which its state does not admit"):
        check_admissible("it", ARM, forbidden, AdmissibleActions(mask))
    assert admitted(ARM, checked_actions("it", ARM, [of_arm(lamps=(0, 1))], 1), mask).tolist() == [False]
    assert admitted(Discrete(3, start=2), np.array([2, 3, 4, 5]), np.array([[1, 0, 1]] * 4, bool)).tolist() == [
        True, False, True, False,
    ]  # fmt: skip
