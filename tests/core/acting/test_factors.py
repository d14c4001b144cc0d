"""Actions of several factors as arrays, and their masks: compared with Gymnasium's own sampling under a mask."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from bitrl.core.acting.nested import taken_apart
from bitrl.core.environments.action_spaces import factored_actions
from bitrl.core.environments.observations import as_array

KEYS = MultiDiscrete([[2, 3], [1, 4]], start=[[5, 0], [-2, 0]])
SPACES = {
    "several": MultiDiscrete([2, 3, 3]),
    "table": KEYS,
    "switches": MultiBinary((2, 2)),
    "nested": Dict({"gear": Discrete(3, start=2), "arm": Tuple((Box(-1, 1, (2, 3)), MultiBinary(2))), "keys": KEYS}),
}


def mask_of(space, random):
    """A mask as Gymnasium's `sample` takes it, that leaves something to choose."""

    def some(size):
        mask = random.integers(0, 2, size).astype(np.int8)
        mask[random.integers(size)] = 1
        return mask

    if isinstance(space, Dict):
        return {name: mask_of(part, random) for name, part in space.items()}
    if isinstance(space, Tuple):
        return tuple(mask_of(part, random) for part in space)
    if isinstance(space, Discrete):
        return some(int(space.n))
    if isinstance(space, MultiBinary):
        return random.integers(0, 3, space.shape).astype(np.int8)
    if isinstance(space, MultiDiscrete):
        rows = space.nvec if space.nvec.ndim > 1 else [space.nvec]
        nested = tuple(tuple(some(int(size)) for size in row) for row in rows)
        return nested if space.nvec.ndim > 1 else nested[0]
    return None


@pytest.mark.parametrize("name", SPACES)
def test_what_gymnasium_samples_under_a_mask_is_admitted_and_all_of_it_can_be_sampled(name):
    space, random = SPACES[name], np.random.default_rng(0)
    space.seed(0)
    actions = factored_actions(space)
    for _ in range(10):
        given = mask_of(space, random)
        mask = actions.flat_mask(given)
        sampled = np.array([as_array(space, space.sample(mask=given)) for _ in range(60)])
        assert actions.admitted(sampled, np.tile(mask, (60, 1))).all()
        seen = np.zeros(len(mask), bool)
        for factor, used in actions.choices():
            values = sampled
            for each in factor.path:
                values = values[each]
            starts = used.start + np.cumsum([0, *factor.sizes[:-1]])
            seen[(starts + (values - factor.low).reshape(60, -1)).ravel()] = True
        assert (seen <= mask.astype(bool)).all()
        assert seen.sum() >= mask.sum() - 1  # 60 samples of at most four values
        assert not actions.admitted(sampled, np.tile(1 - mask, (60, 1))).any()
        assert actions.first_forbidden(mask[None]) is None


def test_masks_one_after_another_are_taken_too():
    several = factored_actions(SPACES["several"])
    assert several.flat_mask([0, 1, 1, 1, 0, 0, 0, 1]).tolist() == [0, 1, 1, 1, 0, 0, 0, 1]
    assert several.flat_mask(([0, 1], [1, 1, 0], [0, 0, 1])).tolist() == [0, 1, 1, 1, 0, 0, 0, 1]
    switches = factored_actions(SPACES["switches"])
    assert switches.flat_mask([1, 0, 0, 1, 1, 1, 1, 1]).tolist() == [1, 0, 0, 1, 1, 1, 1, 1]
    assert switches.flat_mask([[0, 1], [2, 2]]).tolist() == [1, 0, 0, 1, 1, 1, 1, 1]
    nested = factored_actions(SPACES["nested"])
    assert nested.flat_mask({"gear": [0, 1, 1]}).tolist() == [1] * 4 + [0, 1, 1] + [1] * 10
    assert nested.flat_mask({}).tolist() == [1] * 17


@pytest.mark.parametrize(
    ("name", "mask", "message"),
    [
        ("several", [1, 0], ": expected 2 + 3 + 3 of 0 or 1, got [1, 0]"),
        ("several", [1, 0, 1], "[0]: expected 0 or 1 for each of 2 values, got 1"),
        ("several", ([1, 0], [1, 1], [0, 1, 1]), "[1]: expected 0 or 1 for each of 3 values, got [1, 1]"),
        ("several", [0, 1, 1, 1, 0, 0, 0, 0.5], ": expected 0 or 1 for each of 8 values"),
        ("several", "all", ": expected 2 + 3 + 3 of 0 or 1, got all"),
        ("switches", [1, 0, 1], ": expected shape (2, 2), of 0, 1 and 2 (either), or 8 of 0 or 1, got [1, 0, 1]"),
        ("switches", [[1, 0], [3, 1]], ": expected shape (2, 2), of 0, 1 and 2"),
        ("nested", [1, 0], ": expected the masks of its parts, or 17 of 0 or 1, got [1, 0]"),
        ("nested", {"gear": [1, 0]}, "['gear']: expected 0 or 1 for each of 3 values, got [1, 0]"),
        ("nested", {"arm": (None,)}, "['arm'][1]: expected a mask for each part, got 1"),
        ("nested", {"arm": (None, None, None)}, "['arm']: expected a mask for each of 2 parts, got 3"),
        ("nested", {"gaer": [0, 1, 1]}, ": expected masks of 'arm', 'gear', "),
    ],
)
def test_other_masks_are_refused_and_say_which_factor(name, mask, message):
    with pytest.raises(ValueError, match="expected") as refused:
        factored_actions(SPACES[name]).flat_mask(mask)
    assert str(refused.value).startswith(message)


def test_a_choice_without_a_value_is_found():
    nested = factored_actions(SPACES["nested"])
    mask = np.ones((3, 17), np.int8)
    mask[1, 4:7] = 0
    assert nested.first_forbidden(mask) == "['gear']"
    mask[1, 4:7] = 1
    mask[2, 13:17] = 0
    assert nested.first_forbidden(mask) == "['keys'], number 3"
    assert nested.first_forbidden(np.ones((2, 17))) is None


def test_actions_are_put_together_and_taken_apart():
    space = SPACES["nested"]
    space.seed(3)
    actions, sampled = factored_actions(space), [space.sample() for _ in range(4)]
    records = np.array([as_array(space, each) for each in sampled])
    values = []
    for factor in actions.factors:
        part = records
        for name in factor.path:
            part = part[name]
        values.append(part)
    joined = actions.joined(values)
    assert joined.dtype == records.dtype
    assert joined.tobytes() == records.tobytes()
    for record, wanted in zip(joined, sampled, strict=True):
        apart = taken_apart(record)
        assert space.contains(apart)
        assert apart["gear"] == wanted["gear"]
        np.testing.assert_array_equal(apart["arm"][0], wanted["arm"][0])
        np.testing.assert_array_equal(apart["keys"], wanted["keys"])


@pytest.mark.parametrize(("part", "value"), [("gear", 5), ("gear", 1), ("keys", 9)])
def test_actions_outside_of_the_bounds_are_not_in_the_space(part, value):
    space = SPACES["nested"]
    space.seed(1)
    records = np.array([as_array(space, space.sample()) for _ in range(3)])
    assert factored_actions(space).contain(records)
    records[part][1] = value
    assert not factored_actions(space).contain(records)
    records[part][1] = records[part][0]
    records["arm"]["[0]"][2, 0, 0] = np.nan
    assert not factored_actions(space).contain(records)
