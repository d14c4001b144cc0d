"""The last k states: what is remembered and forgotten, how it is written, and that runs with it resume exactly."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import bitrl
from bitrl.core.acting.history import History
from bitrl.core.config import resolve
from bitrl.core.environments.history_wrapper import HistoryWrapper
from bitrl.core.environments.observations import as_array
from bitrl.core.environments.replay import restore, save, vectorise
from bitrl.core.records import SerializerRecord
from bitrl.core.runs.parts import build

OPTIONS = {
    **{"run.history": 3, "run.num_envs": 4, "run.eval_episodes": 1, "run.checkpoint_every": 1},
    **{"algo.rollout_steps": 64, "backbone.layers": 1, "backbone.threads": 1},
}


TEXTS, VECTORS = (SerializerRecord(name="test", summary="", target="a:b", emits=form) for form in ("text", "vector"))


class Letters(gymnasium.Env):
    """Episodes of seven steps that show one letter after another, in an array that is used again."""

    observation_space = gymnasium.spaces.Box(0, 255, (1,), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.shown = np.array([ord("a")], np.uint8)
        return self.shown, {}

    def step(self, action):
        self.shown += 1
        return self.shown, 0.0, bool(self.shown == ord("h")), False, {}


class Choosing(gymnasium.Env):
    """A text, and beside it what can be done."""

    observation_space = gymnasium.spaces.Dict(
        {"observation": gymnasium.spaces.Text(20), "action_mask": gymnasium.spaces.MultiBinary(2)}
    )
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.seen(), {}

    def step(self, action):
        self.steps += 1
        return self.seen(), 0.0, self.steps == 3, False, {}

    def seen(self):
        return {"observation": f"step{self.steps}", "action_mask": np.array([1, self.steps % 2], np.int8)}


class Spell:
    """Writes a letter, or a text, as it is."""

    def __call__(self, observation):
        return str(observation) if np.asarray(observation).dtype.kind == "U" else chr(observation[0])

    def batch(self, observations):
        return [self(observation) for observation in observations]


class Code:
    """Writes a letter as a vector of two numbers."""

    width = 2

    def __call__(self, observation):
        return np.array([observation[0], 1], np.float32)

    def batch(self, observations):
        return np.array([self(observation) for observation in observations], np.float32).reshape(-1, 2)


class Counter:
    """A backbone for which a letter is a token."""

    def token_counts(self, inputs):
        return [len(text) for text in inputs]


def episode(env):
    """All observations of an episode, as arrays."""
    seen = [env.reset(seed=0)[0]]
    ended = False
    while not ended:
        observation, _, ended, _, _ = env.step(0)
        seen.append(observation)
    assert all(observation in env.observation_space for observation in seen)
    return [as_array(env.observation_space, observation) for observation in seen]


def test_the_newest_is_last_and_an_episode_starts_without_a_past():
    write, env = History(Spell(), 3, TEXTS), HistoryWrapper(Letters(), 3)
    expected = ["a", "a\nb", "a\nb\nc", "b\nc\nd", "c\nd\ne", "d\ne\nf", "e\nf\ng", "f\ng\nh"]
    for _ in range(2):
        seen = episode(env)
        assert [write(observation) for observation in seen] == expected
        assert write.batch(np.stack(seen)) == expected
        assert write.batch(np.stack(seen)[:0]) == []


def test_vectors_stand_side_by_side_with_zeros_for_what_was_not():
    write = History(Code(), 3, VECTORS)
    seen = episode(HistoryWrapper(Letters(), 3))
    expected = [[0, 0, 0, 0, 97, 1], [0, 0, 97, 1, 98, 1], [97, 1, 98, 1, 99, 1], [98, 1, 99, 1, 100, 1]]
    assert write.width == 6
    found = write.batch(np.stack(seen[:4]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal([write(observation) for observation in seen[:4]], expected)
    assert write.batch(np.stack(seen)[:0]).shape == (0, 6)


@pytest.mark.parametrize(
    ("budget", "last"), [(1, "h"), (2, "h"), (3, "g\nh"), (4, "g\nh"), (5, "f\ng\nh"), (9, "f\ng\nh")]
)
def test_the_oldest_are_left_out_until_the_tokens_and_line_breaks_fit(budget, last):
    write = History(Spell(), 3, TEXTS)
    write.limit(Counter().token_counts, budget)
    assert write(episode(HistoryWrapper(Letters(), 3))[-1]) == last


def test_a_newest_state_beyond_the_budget_is_read_all_the_same():
    write = History(Spell(), 2, TEXTS)
    write.limit(Counter().token_counts, 3)
    assert write({"count": 2, "0": np.array("old"), "1": np.array("a long one")}) == "a long one"


def test_what_can_be_done_is_that_of_the_newest_state():
    seen = np.stack(episode(HistoryWrapper(Choosing(), 2)))
    assert seen["action_mask"].tolist() == [[1, 0], [1, 1], [1, 0], [1, 1]]
    texts = ["step0", "step0\nstep1", "step1\nstep2", "step2\nstep3"]
    assert History(Spell(), 2, TEXTS).batch(seen["observation"]) == texts


@pytest.mark.parametrize("env", ["CartPole-v1", "FrozenLake-v1", "SmartHome-Light", "BabyAI-GoToRedBall-v0"])
@pytest.mark.filterwarnings("ignore")  # of the environments' own
def test_gymnasiums_checker_passes_and_an_episode_is_played_again(env):
    make = lambda: HistoryWrapper(bitrl.load_environment(env).make(), 3)  # noqa: E731
    if not env.startswith("BabyAI"):  # whose own wrapper Gymnasium cannot make again
        check_env(make(), skip_render_check=True)
    first, second = vectorise(make, 2), vectorise(make, 2)
    first.reset(seed=[1, 2])
    first.action_space.seed(0)
    for _ in range(4):
        observations, *_ = first.step(first.action_space.sample())
    restore(second, *save(first), observations)
    actions = first.action_space.sample()
    np.testing.assert_array_equal(second.step(actions)[0], first.step(actions)[0])


@pytest.mark.parametrize("choice", [{"backbone": "mlp"}, {"backbone": "bitnet", "serializer": "compact"}])
def test_a_run_reads_it_and_a_resumed_one_ends_the_same(tmp_path, choice):
    options = {name: value for name, value in OPTIONS.items() if choice["backbone"] == "bitnet" or "backb" not in name}
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    summary = bitrl.run("CartPole-v1", **choice, steps=192, out=straight, options=options)
    bitrl.run("CartPole-v1", **choice, steps=192, out=stopped, options=options)
    (stopped / "summary.json").unlink()
    max((stopped / "checkpoints").iterdir()).unlink()
    assert bitrl.resume(stopped)["eval"] == summary["eval"]
    for file in ("metrics.jsonl", "checkpoints/000000000192.safetensors"):
        assert (stopped / file).read_bytes() == (straight / file).read_bytes()
    shown = []
    bitrl.evaluate(straight, episodes=1, show=shown.append)
    states = [step.state for step in shown]
    if choice["backbone"] == "mlp":
        assert [len(state) for state in states] == [12] * len(states)
        assert states[0][:8] == [0.0] * 8
        assert states[2][:4] == states[1][4:8] == states[0][8:]
    else:
        assert [len(state.split("\n")) for state in states[:4]] == [1, 2, 3, 3]
        assert states[3].split("\n")[:2] == states[2].split("\n")[1:]


def test_the_backbone_counts_the_tokens():
    values = {"run": {"history": 4, "history_tokens": 40}, "backbone": {"layers": 1}}
    parts = build(resolve(values))
    env = parts.environment.make()
    observation = env.reset(seed=0)[0]
    for _ in range(4):
        observation, *_ = env.step(0)
    counts = parts.reader.backbone.token_counts
    one = bitrl.load_serializer("json", env="CartPole-v1")(observation["3"])
    text = parts.reader.serializer(observation)
    assert text.endswith("\n" + one)
    assert counts([text]) == [sum(counts([line])[0] + 1 for line in text.split("\n")) - 1]
    assert counts([text])[0] <= 40 < counts([one + "\n" + text])[0]


def test_mistakes():
    with pytest.raises(bitrl.UsageError, match=r"run\.history: expected an integer between 1 and 1000, got 0"):
        resolve({"run": {"history": 0}})
    with pytest.raises(
        bitrl.UsageError, match=r'run\.history: .* needs equally many numbers in every text: choose "mean" or "last"'
    ):
        build(resolve({"run": {"history": 2}, "backbone": {"pooling": "field"}}))
