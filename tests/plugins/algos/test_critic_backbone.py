"""A critic with a backbone of its own: what is encoded, how often, by which, and what learns from it."""

import attrs
import gymnasium
import numpy as np
import pytest
from tiny_models import TinyModel

import bitrl
from bitrl.core.acting.loading import load_backbone
from bitrl.core.acting.states import StateReader
from bitrl.core.config import resolve
from bitrl.core.environments import replay
from bitrl.core.environments.collector import Collector
from bitrl.core.interfaces import Task
from bitrl.core.options import NoOptions, parse
from bitrl.core.runs.parts import build
from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.ppo import PPO, Samples
from bitrl.plugins.backbones.language_model import LanguageModel
from bitrl.testing import make_task
from bitrl.testing.tasks import Doubled, Plain

ENVS = 3


class Notes:
    """A serializer that writes the numbers out, and remembers every text."""

    def __init__(self):
        self.texts = []

    def batch(self, observations):
        texts = [" ".join(map(repr, np.ravel(each).tolist())) for each in observations]
        self.texts += texts
        return texts


class Reader:
    """A backbone of texts that remembers what it read: the numbers of the text, `times` side by side."""

    def __init__(self, times):
        self.width, self.identity, self.texts, self.times = 4 * times, {"times": times}, [], times

    def encode(self, inputs):
        self.texts += inputs
        rows = [[float(number) for number in text.split()] * self.times for text in inputs]
        return np.array(rows, np.float32).reshape(-1, self.width)


def hybrid(backbone, critic, serializer=None):
    """CartPole cut off after nine steps, so that most episodes are truncated and some fall."""
    envs = replay.vectorise(lambda: gymnasium.make("CartPole-v1", max_episode_steps=9), ENVS)
    observations, _ = envs.reset(seed=0)
    reader = StateReader(serializer or Notes(), backbone, critic)
    return Task(collector=Collector(envs, reader, observations), reader=reader, seed=0, steps=0)


def ppo(task, **options):
    return PPO(parse(PPOOptions, {"rollout_steps": 90, "minibatch_size": 32, **options}, "algo"), task)


def same_direction(states, t):
    return np.ones(len(states), int)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(
        TinyModel(width=32, ffn=48, blocks=2, vocabulary=300).write(tmp_path_factory.mktemp("hybrid") / "tiny.gguf")
    )


def test_a_rollout_holds_what_each_backbone_makes_of_the_same_texts(model):
    task = hybrid(load_backbone("bitnet", model), load_backbone("int8", model, layers=1))
    rollout = task.collector.rollout(same_direction, 24)
    features, critic_features, final_features = (
        rollout.features,
        rollout.critic_features,
        rollout.final_critic_features,
    )
    texts, cut_off = task.reader.serializer.texts[: 25 * ENVS], task.reader.serializer.texts[25 * ENVS :]
    ternary, eight_bits = load_backbone("bitnet", model, cache_mb=0), load_backbone("int8", model, layers=1, cache_mb=0)
    np.testing.assert_array_equal(features, ternary.encode(texts).reshape(25, ENVS, -1))
    np.testing.assert_array_equal(critic_features, eight_bits.encode(texts).reshape(25, ENVS, -1))
    assert len(cut_off) == len(rollout.final_steps) > 0
    np.testing.assert_array_equal(final_features, eight_bits.encode(cut_off))
    assert not np.array_equal(rollout.features, rollout.critic_features)


def test_each_state_is_written_once_and_read_once_by_each_backbone():
    """States of CartPole do not repeat. What a truncated episode ended in has a value, but nobody acts there."""
    task = hybrid(Reader(1), Reader(2))
    algorithm = ppo(task)
    algorithm.update()
    algorithm.update()
    written = task.reader.serializer.texts
    acted_on, judged = task.reader.backbone.texts, task.reader.critic.texts
    assert len(written) == len(set(written))
    assert sorted(judged) == sorted(written)
    assert len(acted_on) == len(set(acted_on)) == (2 * 90 // ENVS + 1) * ENVS
    assert set(acted_on) < set(judged)


def test_without_a_backbone_of_its_own_the_critic_reads_the_policys_array():
    task = make_task()
    rollout = task.collector.rollout(same_direction, 5)
    assert rollout.critic_features is rollout.features
    assert "critic_mean" not in ppo(task).state()


def test_a_critic_that_reads_the_same_numbers_learns_the_same():
    """Another object, another identity, the same features: not a bit of what is learned may differ."""
    alone, beside = ppo(make_task(seed=3)), ppo(make_task(seed=3, critic_backbone=Plain))
    for _ in range(3):
        assert alone.update() == beside.update()
    state = beside.state()
    for name, array in alone.state().items():
        np.testing.assert_array_equal(array, state[name])
    np.testing.assert_array_equal(state["critic_mean"], state["mean"])


def test_each_heads_gradient_depends_on_its_own_features_alone():
    generator = np.random.default_rng(0)

    def draw(*shape):
        return generator.normal(size=shape).astype(np.float32)

    features, critic_features, others = draw(16, 4), draw(16, 8), (draw(16, 4), draw(16, 8))
    rest = (np.zeros(16, np.int64), draw(16), draw(16), draw(16))
    start = draw(200_000)

    def weights_after(features, critic_features):
        algorithm = ppo(make_task(critic_backbone=Doubled))
        for weights in algorithm.groups.parameters.values():
            weights[:] = 0.3 * start[: len(weights)]
        algorithm.gradient_step(Samples(features, critic_features, *rest), 0.1, 0.05)
        return {name: weights.copy() for name, weights in algorithm.groups.parameters.items()}

    plain = weights_after(features, critic_features)
    other_critic, other_policy = weights_after(features, others[1]), weights_after(others[0], critic_features)
    assert np.array_equal(plain["policy"], other_critic["policy"])
    assert not np.array_equal(plain["value"], other_critic["value"])
    assert np.array_equal(plain["value"], other_policy["value"])
    assert not np.array_equal(plain["policy"], other_policy["policy"])


def test_each_backbones_features_are_standardised_by_themselves():
    task = hybrid(Reader(1), Reader(2))
    algorithm = ppo(task)
    algorithm.update()
    state, texts = algorithm.state(), task.reader.backbone.texts[: (90 // ENVS + 1) * ENVS]
    for prefix, times in (("", 1), ("critic_", 2)):
        rows = Reader(times).encode(texts)
        np.testing.assert_allclose(state[f"{prefix}mean"], rows.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(state[f"{prefix}std"], rows.std(axis=0) + 1e-6, rtol=1e-5)


def test_a_trainable_critic_may_stand_beside_another_policy():
    """Both read vectors; the critic's network is trained with its head, and the policy has a network of its own."""

    def small(width):
        return load_backbone("mlp", width=width, hidden=(6,))

    for backbone, trainable in ((Plain, False), (lambda width: load_backbone("mlp", width=width, hidden=(5,)), True)):
        task = make_task(backbone=backbone, critic_backbone=small, trainable=trainable, critic_trainable=True)
        algorithm = ppo(task)
        before = algorithm.groups.parameters["value"].copy()
        algorithm.update()
        assert algorithm.value.widths == (4, 6, 1)
        assert not np.array_equal(before, algorithm.groups.parameters["value"])
        assert algorithm.act(algorithm.task.collector.states).shape == (4,)


def built(critic, **options):
    values = {"run": {"backbone": "bitnet", "critic_backbone": critic}, "backbone": {"layers": 1}}
    return build(resolve({**values, "critic_backbone": options}))


def test_a_critics_backbone_with_the_policys_features_is_the_policys(monkeypatch):
    loads = []
    load = LanguageModel.__init__
    monkeypatch.setattr(LanguageModel, "__init__", lambda self, *args: (loads.append(args), load(self, *args))[1])
    assert built("bitnet", layers=1).reader.critic is None
    assert len(loads) == 1
    assert built("bitnet", layers=1, threads=1, cache_mb=0, bits="1.6").reader.critic is None
    loads.clear()
    reader = built("int8", layers=1).reader
    assert reader.critic is not None
    assert len(loads) == 2
    assert built("bitnet", layers=2).reader.critic is not None


def once(options, width):
    return Reader(1)


def test_two_components_whose_identities_are_equal_are_still_two():
    policys, critics = (
        bitrl.BackboneRecord(name=name, summary="", target=f"{__name__}:once") for name in ("one", "two")
    )
    none = {"backbone_options": NoOptions(), "critic_backbone_options": NoOptions()}
    config = attrs.evolve(resolve({}), backbone=policys, critic_backbone=critics, **none)
    assert build(config).reader.critic is not None
    assert build(attrs.evolve(config, critic_backbone=policys)).reader.critic is None


ONE_BLOCK = {f"{part}.{name}": 1 for part in ("backbone", "critic_backbone") for name in ("layers", "threads")}
QUICK = {"algo.rollout_steps": 64, "run.num_envs": 4, **ONE_BLOCK}


def test_a_run_says_which_backbone_its_critic_read_and_evaluates_without_it(tmp_path, monkeypatch):
    import bitrl
    from bitrl.core.runs.store import read_provenance

    run = tmp_path / "run"
    options = {**QUICK, "run.eval_episodes": 2}
    summary = bitrl.run(critic_backbone="int8", serializer="compact", steps=128, out=run, options=options)
    assert (summary["backbone"], summary["critic_backbone"]) == ("bitnet", "int8")
    # 33 batches of 4 states and the ends of truncated episodes, of which an untrained policy sees none.
    assert sum(summary["critic_cache"][key] for key in ("hits", "misses")) == 33 * 4
    assert sum(summary["cache"][key] for key in ("hits", "misses")) > 33 * 4
    identities = read_provenance(run)
    assert "format" not in identities["features"]
    assert (identities["critic_features"]["format"], identities["critic_features"]["layers"]) == ("int8", 1)

    read = []
    encode = LanguageModel.encode
    monkeypatch.setattr(
        LanguageModel, "encode", lambda self, texts: (read.append(self.engine.format), encode(self, texts))[1]
    )
    found = bitrl.evaluate(run)
    assert found["critic_backbone"] == "int8"
    assert found["mean_return"] == summary["eval"]["mean_return"]
    assert set(read) == {"ternary"}


def test_a_run_without_a_name_is_named_after_both_backbones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {**QUICK, "run.eval_episodes": 0}
    summary = bitrl.run(critic_backbone="int8", steps=0, options=options)
    assert summary["run"] == "runs/CartPole-v1-bitnet-critic-int8-json-ppo-seed0"
