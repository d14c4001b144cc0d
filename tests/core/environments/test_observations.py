"""Observations of every space as arrays, through vector environments, checkpoints and replay."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from bitrl.core.acting import checkpoints
from bitrl.core.environments import replay
from bitrl.core.environments.environment import Environment
from bitrl.core.environments.observations import as_array, as_batch, dtype_of
from bitrl.core.environments.random_play import observations_of
from bitrl.core.errors import RunFailed

PARTS = spaces.Dict(
    {
        "words": spaces.Text(12),
        "inner": spaces.Dict({"count": spaces.Discrete(5), "picture": spaces.Box(0, 255, (2, 3), np.uint8)}),
        "numbers": spaces.Box(-1, 1, (4,), np.float32),
    }
)
SPACES = [PARTS, spaces.Text(7), spaces.Box(-1, 1, (2, 2)), spaces.Discrete(4, start=2)]


def same(left, right):
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    return np.array_equal(left, right)


def taken_apart(space, row):
    """An observation as its environment gave it, from its array."""
    if isinstance(space, spaces.Dict):
        return {name: taken_apart(part, row[name]) for name, part in space.items()}
    return str(row) if isinstance(space, spaces.Text) else row


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_nothing_is_lost_or_changed(space):
    space.seed(0)
    single = [space.sample() for _ in range(5)]
    arrays = [as_array(space, observation) for observation in single]
    stacked = np.stack(arrays)
    assert stacked.shape[0] == 5
    for observation, row in zip(single, stacked, strict=True):
        assert same(observation, taken_apart(space, row))
    together = gymnasium.vector.utils.concatenate(space, single, gymnasium.vector.utils.create_empty_array(space, n=5))
    batch = as_batch(space, together, 5)
    assert batch.dtype == stacked.dtype
    assert np.array_equal(batch, stacked)
    if dtype_of(space) is None:
        assert batch is together


@pytest.mark.parametrize("text", ["a text longer than its space", 12, None])
def test_a_text_that_does_not_fit_its_space_is_refused_not_cut(text):
    words = spaces.Text(12)
    parts = spaces.Dict({"words": words, "count": spaces.Discrete(5)})
    for space, one, several in (
        (words, text, ("short", text)),
        (parts, {"words": text, "count": 1}, {"words": ("short", text), "count": np.zeros(2, np.int64)}),
    ):
        message = r"28 characters.*room for 12.*max_length" if isinstance(text, str) else "expected a string"
        with pytest.raises(RunFailed, match=message):
            as_array(space, one)
        with pytest.raises(RunFailed, match=message):
            as_batch(space, several, 2)
    assert as_array(words, "twelve chars") == "twelve chars"


@pytest.mark.parametrize("space", SPACES[:2], ids=str)
def test_they_come_back_from_a_checkpoint(space, tmp_path):
    space.seed(0)
    observations = np.stack([as_array(space, space.sample()) for _ in range(3)])
    path = checkpoints.write(tmp_path, 7, checkpoints.Checkpoint({"observations": observations}, {"step": 7}))
    found = checkpoints.read(path)
    assert found.arrays["observations"].dtype == observations.dtype
    assert np.array_equal(found.arrays["observations"], observations)
    assert found.meta == {"step": 7}
    again = checkpoints.write(tmp_path / "again", 7, found)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("description", ["|O", [["a", "|O"]], [["a", "<f8", 5]], "nonsense", 7, [["a"]]])
def test_a_checkpoint_whose_dtypes_are_made_up_is_damaged(description, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "dtype_to_descr", lambda dtype: description)
    path = checkpoints.write(tmp_path, 1, checkpoints.Checkpoint({"observations": np.array(["ab", "c"])}, {}))
    with pytest.raises(checkpoints.DamagedCheckpoint):
        checkpoints.read(path)


class Counting(gymnasium.Env):
    """Ends by time after as many steps as its first draw says, and says each step's number in words."""

    observation_space = spaces.Dict({"numbers": spaces.Box(0, 99, (2,)), "said": spaces.Text(30)})
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length, self.time = int(self.np_random.integers(3, 9)), 0
        return self._seen(), {}

    def step(self, action):
        self.time += 1
        return self._seen(), float(action), False, self.time == self.length, {}

    def _seen(self):
        return {"numbers": np.array([self.time, self.length], np.float32), "said": f"step {self.time}"}


def test_a_vector_environment_gives_rows_and_true_last_observations():
    envs = replay.vectorise(Counting, 4)
    observations, _ = envs.reset(seed=[0, 1, 2, 3])
    ended = 0
    for _ in range(30):
        before = observations
        observations, _, _, truncated, info = envs.step(np.ones(4, int))
        assert observations.shape == (4,)
        for index in range(4):
            last = info["final_obs"][index] if truncated[index] else observations[index]
            assert last["numbers"].tolist() == [before[index]["numbers"][0] + 1, before[index]["numbers"][1]]
            assert last["said"] == f"step {int(last['numbers'][0])}"
            if truncated[index]:
                ended += 1
                assert last["numbers"][0] == last["numbers"][1]
                assert observations[index]["said"] == "step 0"
    assert ended > 10


def test_episodes_of_records_are_played_again(tmp_path):
    original, restored = replay.vectorise(Counting, 3), replay.vectorise(Counting, 3)
    observations, _ = original.reset(seed=[5, 6, 7])
    for step in range(11):
        observations, *_ = original.step(np.full(3, step % 3))
    actions, starts = replay.save(original)
    path = checkpoints.write(
        tmp_path, 1, checkpoints.Checkpoint({"observations": observations, **actions}, {"starts": starts})
    )
    found = checkpoints.read(path)
    replay.restore(restored, found.arrays, found.meta["starts"], found.arrays["observations"])
    for _ in range(20):
        for mine, wanted in zip(restored.step(np.ones(3, int))[:4], original.step(np.ones(3, int))[:4], strict=True):
            assert np.array_equal(mine, wanted)
    wrong = observations.copy()
    wrong["said"][1] = "step 99"
    with pytest.raises(replay.RunFailed, match="gave other observations: it draws random numbers outside np_random"):
        replay.restore(restored, actions, starts, wrong)


class OneBuffer(gymnasium.Env):
    """Hands out the same array again and again: the number of the step."""

    observation_space, action_space = spaces.Box(0, 99, (2,)), spaces.Discrete(2)
    buffer = np.zeros(2, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.buffer[:] = 0
        return self.buffer, {}

    def step(self, action):
        self.buffer += 1
        return self.buffer, 0.0, False, bool(self.buffer[0] == 3), {}


class OneBufferEnvironment(Environment):
    def make(self, render_mode=None):
        return OneBuffer()


def test_random_play_gives_the_states_as_they_were():
    """What `codes` is fitted to: not the last state again and again."""
    found = observations_of(OneBufferEnvironment(None, "OneBuffer"), 7)
    assert found[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_the_last_observation_of_an_episode_is_not_that_of_the_next():
    envs = replay.vectorise(OneBuffer, 1)
    envs.reset(seed=0)
    for _ in range(3):
        observations, _, _, truncated, info = envs.step(np.array([0]))
    assert truncated.tolist() == [True]
    assert observations.tolist() == [[0, 0]]
    assert info["final_obs"][0].tolist() == [3, 3]


def test_nan_in_records_is_equal_to_itself_when_a_run_is_restored():
    left = np.array([(1, np.nan), (2, 0.5)], [("count", int), ("state", float)])
    assert replay.same(left, left.copy())
    other = left.copy()
    other["state"][1] = np.nan
    assert not replay.same(left, other)
