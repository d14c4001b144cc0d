"""Features as observations of Gymnasium environments: the same as from serializer and backbone, whoever steps them."""

import functools

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import bitrl
from bitrl.core.environments.replay import vectorise


def cartpole(limit=None):
    return gymnasium.make("CartPole-v1", max_episode_steps=limit)


def features_of(observations, serializer="json", env="CartPole-v1", **options):
    """What the wrappers must give, from the parts themselves."""
    write, backbone = parts(serializer, env, **options)
    return backbone.encode([write(observation) for observation in observations])


@functools.cache
def parts(serializer, env, **options):
    return bitrl.load_serializer(serializer, env=env), bitrl.load_backbone("bitnet", **options)


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
@pytest.mark.filterwarnings("ignore:.*A Box observation space m")  # features have no bounds that are known
@pytest.mark.filterwarnings("error")
def test_gymnasiums_checker_passes():
    check_env(bitrl.FeatureObservation(cartpole()), skip_render_check=True)


@pytest.mark.parametrize("serializer", [None, "compact"])
def test_observations_are_the_backbones_features_of_the_serializers_text(serializer):
    options = {"layers": 2, "pooling": "field"}
    wrapped = bitrl.FeatureObservation(cartpole(), "bitnet", serializer, backbone_options=options)
    plain = cartpole()
    seen, expected = [wrapped.reset(seed=3)[0]], [plain.reset(seed=3)[0]]
    for action in (0, 1, 1, 0, 1):
        features, *rest = wrapped.step(action)
        observation, *theirs = plain.step(action)
        assert rest == theirs
        seen.append(features)
        expected.append(observation)
    assert all(features in wrapped.observation_space for features in seen)
    assert wrapped.observation_space.shape == (1024,)
    np.testing.assert_array_equal(seen, features_of(expected, serializer or "json", width=4, **options))


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_a_vector_environment_sees_the_same_and_its_last_observations_too(mode):
    def make():
        # Episodes of 2, 3 and 4 steps, so that they do not all end at once.
        return SyncVectorEnv([lambda limit=limit: cartpole(limit) for limit in (2, 3, 4)], autoreset_mode=mode)

    wrapped, plain = bitrl.VectorFeatureObservation(make()), make()
    batches = []
    encode = wrapped.reader.backbone.encode
    wrapped.reader.backbone.encode = lambda texts: batches.append(len(texts)) or encode(texts)
    features, observations = wrapped.reset(seed=5)[0], plain.reset(seed=5)[0]
    ended = 0
    for _ in range(9):
        assert features in wrapped.observation_space
        np.testing.assert_array_equal(features, features_of(observations, layers=1))
        actions = plain.action_space.sample()
        features, rewards, terminated, truncated, info = wrapped.step(actions)
        observations, *theirs, raw = plain.step(actions)
        for ours, other in zip((rewards, terminated, truncated), theirs, strict=True):
            np.testing.assert_array_equal(ours, other)
        assert set(info) == set(raw)
        final = np.flatnonzero(raw.get("_final_obs", ()))
        ended += len(final)
        assert batches[-1] == 3 + len(final)
        for index in range(3) if "final_obs" in raw else ():
            if index in final:
                last = features_of([raw["final_obs"][index]], layers=1)[0]
                np.testing.assert_array_equal(info["final_obs"][index], last)
            else:
                assert info["final_obs"][index] is None
    assert len(batches) == 10
    assert ended == (4 + 3 + 2 if mode is AutoresetMode.SAME_STEP else 0)
    assert wrapped.metadata["autoreset_mode"] is mode
    wrapped.close()
    assert wrapped.env.closed


def test_processes_of_their_own():
    """The numbers have their names where the environments are out of sight, and a child never waits for the threads of
    its parent's engine.
    """
    here = bitrl.FeatureObservation(cartpole())
    first = here.reset(seed=1)[0]
    outside = bitrl.VectorFeatureObservation(AsyncVectorEnv([cartpole] * 2))
    inside = AsyncVectorEnv([lambda: bitrl.FeatureObservation(cartpole())] * 2)
    inside.reset_async(seed=1)
    np.testing.assert_array_equal(inside.reset_wait(timeout=120)[0][0], first)
    np.testing.assert_array_equal(outside.reset(seed=1)[0][0], first)
    inside.close()
    outside.close()


@pytest.mark.parametrize(("name", "serializer"), [("SmartHome-Light", "compact"), ("BabyAI-GoToRedBall-v0", "grid")])
def test_environments_with_several_parts(name, serializer):
    make = bitrl.load_environment(name).make
    observation, _ = make().reset(seed=2)
    expected = features_of([observation], serializer, name)
    one = bitrl.FeatureObservation(make(), env_id=name)
    np.testing.assert_array_equal(one.reset(seed=2)[0], expected[0])
    for envs in (SyncVectorEnv([make] * 2), vectorise(make, 2)):
        many = bitrl.VectorFeatureObservation(envs, env_id=name)
        np.testing.assert_array_equal(many.reset(seed=[2, 3])[0][:1], expected)
        assert many.step(many.action_space.sample())[0] in many.observation_space


def test_an_environment_of_parts_needs_no_name():
    space = gymnasium.spaces.Dict({"place": gymnasium.spaces.Box(-1, 1, (2,)), "lamp": gymnasium.spaces.Discrete(2)})
    env = gymnasium.wrappers.TransformObservation(
        Counter(), lambda number: {"place": np.array([0.5, -0.25], np.float32), "lamp": number % 2}, space
    )
    expected = bitrl.load_backbone("bitnet").encode(["lamp 1 place 0.500 -0.250"])
    np.testing.assert_array_equal(bitrl.FeatureObservation(env).reset()[0], expected[0])


class Counter(gymnasium.Env):
    """An environment that Gymnasium knows nothing of."""

    observation_space = gymnasium.spaces.Discrete(5)
    action_space = gymnasium.spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.int64(3), {}


def test_an_environment_without_a_name():
    expected = bitrl.load_backbone("bitnet").encode(["state 3"])
    np.testing.assert_array_equal(bitrl.FeatureObservation(Counter()).reset()[0], expected[0])
    vector = bitrl.VectorFeatureObservation(SyncVectorEnv([Counter]))
    np.testing.assert_array_equal(vector.reset()[0], expected)


def test_environments_seen_in_the_same_way_share_a_backbone():
    first, second = (bitrl.FeatureObservation(cartpole()) for _ in range(2))
    other = bitrl.FeatureObservation(cartpole(), backbone_options={"layers": 2})
    assert first.reader is second.reader
    assert first.reader.backbone is not other.reader.backbone


def test_gymnasium_can_make_it_again():
    env = bitrl.FeatureObservation(cartpole(), "int8", "compact", backbone_options={"layers": 1})
    again = gymnasium.make(env.spec)
    np.testing.assert_array_equal(again.reset(seed=4)[0], env.reset(seed=4)[0])


@pytest.mark.parametrize(
    ("make", "choice", "error"),
    [
        (cartpole, {"backbone": "bitnot"}, 'unknown backbone "bitnot": did you mean "bitnet"'),
        (cartpole, {"serializer": "jsno"}, 'unknown serializer "jsno": did you mean "json"'),
        (cartpole, {"serializer": "vector"}, 'serializer "vector" emits vector, but backbone "bitnet" accepts text'),
        (cartpole, {"backbone": "mlp"}, 'backbone "mlp" is trained by the algorithm of a run'),
        (cartpole, {"backbone_options": {"layer": 1}}, 'unknown option "backbone.layer": did you mean'),
        (cartpole, {"serializer_options": {"decimals": "3"}}, "serializer.decimals: expected an integer"),
        (cartpole, {"env_id": "SmartHome-Light"}, "SmartHome-Light: its observation space is not the one"),
        (lambda: bitrl.load_environment("SmartHome-Light").make(), {}, 'give it as env_id="…"'),
    ],
)
def test_errors_are_one_line(make, choice, error):
    for wrap in (
        bitrl.FeatureObservation,
        lambda env, **rest: bitrl.VectorFeatureObservation(vectorise(make, 1), **rest),
    ):
        with pytest.raises(bitrl.UsageError) as raised:
            wrap(make(), **choice)
        assert error in str(raised.value)
        assert "\n" not in str(raised.value)


def test_stable_baselines3_trains_on_the_features():
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    choice = {"backbone_options": {"layers": 1, "threads": 1}}
    envs = make_vec_env("CartPole-v1", 4, seed=0, wrapper_class=bitrl.FeatureObservation, wrapper_kwargs=choice)
    model = PPO("MlpPolicy", envs, n_steps=32, batch_size=64, n_epochs=2, seed=0, device="cpu")
    assert model.observation_space.shape == (256,)
    before = [weights.detach().clone() for weights in model.policy.parameters()]
    model.learn(256)
    assert model.num_timesteps == 256
    assert any((now != then).any() for now, then in zip(model.policy.parameters(), before, strict=True))
    # What it learned from last is what the last states read as.
    state = np.array(envs.env_method("get_wrapper_attr", "state"))
    np.testing.assert_array_equal(model._last_obs, features_of(state.astype(np.float32), layers=1, threads=1))
    action, _ = model.predict(envs.reset(), deterministic=True)
    assert action.shape == (4,)


class OneBuffer(gymnasium.Env):
    """Hands out the same array again and again: the number of the step, of three."""

    observation_space, action_space = gymnasium.spaces.Box(0, 9, (1,)), gymnasium.spaces.Discrete(2)

    def __init__(self):
        self.buffer = np.zeros(1, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.buffer[:] = 0
        return self.buffer, {}

    def step(self, action):
        self.buffer += 1
        return self.buffer, 0.0, False, bool(self.buffer[0] == 3), {}


def test_last_observations_of_an_environment_with_one_array():
    expected = bitrl.load_backbone("bitnet").encode(["3.000"])[0]
    envs = bitrl.VectorFeatureObservation(SyncVectorEnv([OneBuffer] * 2, autoreset_mode=AutoresetMode.SAME_STEP))
    envs.reset()
    for _ in range(3):
        info = envs.step(np.zeros(2, int))[-1]
    np.testing.assert_array_equal(info["final_obs"][1], expected)


def test_last_observations_that_other_processes_lose_are_refused():
    envs = AsyncVectorEnv([OneBuffer], autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(bitrl.UsageError, match="hand out one array for all observations"):
        bitrl.VectorFeatureObservation(envs)
    envs.close()
