"""An algorithm's actions are checked before an environment gets them, which would be blamed for what comes of them."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Text

from bitrl.core.environments.action_checks import checked_actions
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
