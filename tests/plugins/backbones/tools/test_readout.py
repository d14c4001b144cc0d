"""The readout that a run chooses by evidence: it keeps the numbers, nothing cheaper does, and what is set stands."""

import tomllib
from pathlib import Path
from typing import Any

import attrs
import gymnasium
import numpy as np
import pytest

import bitrl
from bitrl import FeatureObservation
from bitrl.core.config import resolve
from bitrl.core.environments.evidence import choose as choose_all
from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.runs import display
from bitrl.core.runs.parts import build
from bitrl.plugins.backbones import TernaryOptions
from bitrl.plugins.backbones.directions import read, written
from bitrl.plugins.backbones.language_model import LanguageModel, count_sketch
from bitrl.plugins.backbones.tools import readout
from bitrl.plugins.backbones.tools.probe import draw
from bitrl.plugins.backbones.tools.readout import MeasuredReadout, best_of, choose, readouts
from bitrl.plugins.backbones.tools.ridge import r_squared

ENV = "Pendulum-v1"  # three numbers without names


def configured(env=ENV, run=None, **backbone):
    return resolve({"run": {"env": env, **(run or {})}, "backbone": backbone})


@pytest.fixture(scope="module")
def chosen():
    config, lines = choose_all(configured())
    return config, lines


def test_the_readout_that_is_chosen_keeps_every_number_of_other_states(chosen):
    config, (units, line) = chosen
    assert units == f"units of {ENV} by 500 states of random play: x2 e1"
    assert line.startswith(
        f"readout of {ENV} by 4,000 states of random play: 1 block, pooling field, 12 features in directions: R²"
    )
    options = config.backbone_options
    assert (options.layers, options.pooling, options.projection) == (1, "field", None)
    parts = build(config)
    assert parts.reader.backbone.width == 12
    fields = parts.environment.observation_spec().fields
    states = draw(parts.environment, fields, "random", 1200, seed=5)
    features = parts.reader(states).features.astype(np.float64)
    features = np.c_[features, np.ones(len(features))]
    weights = np.linalg.lstsq(features[:900], states[:900], rcond=1e-6)[0]
    left = (features[900:] @ weights - states[900:]).var(axis=0) / states[900:].var(axis=0)
    assert (left < 0.02).all()


def test_the_same_states_give_the_same_choice(chosen):
    assert choose_all(configured()) == chosen


@pytest.mark.parametrize(
    "config",
    [
        configured(layers=2), configured(pooling="mean"), configured(projection=8), configured(readout="set"),
        configured("CartPole-v1"), configured("SmartHome-Light"), configured("FrozenLake-v1", readout="set"),
        configured(run={"history": 2}), configured("SmartHome-Light", readout="auto"),
    ],
    ids=lambda config: None,
)  # fmt: skip
def test_what_is_set_or_tuned_stands(config):
    assert choose(config, "backbone") is None


def test_candidates_come_cheapest_first_until_more_blocks_keep_less(monkeypatch):
    monkeypatch.setattr(readout, "STATES", 800)
    tried = list(readouts(configured("MountainCar-v0", readout="auto")))
    costs = [(each.layers, each.features) for each in tried]
    assert costs == sorted(costs)
    assert [(each.features, each.directions is not None) for each in tried][:2] == [(8, True), (256, False)]
    assert {each.pooling for each in tried} == {"field"}
    least = {layers: max(each.least for each in tried if each.layers == layers) for layers, _ in costs}
    rising = list(least.values())[:-1]
    assert rising == sorted(rising)
    assert len(least) == 2 or least[2] > least[1]


def test_the_cheapest_of_those_that_are_good_enough_is_taken_else_the_best():
    good, better, poor = (MeasuredReadout(1, "field", None, 8, 0.99, "x", least, 4000) for least in (0.981, 0.999, 0.5))
    assert best_of([poor, good, better]) is good
    fair = MeasuredReadout(1, "field", None, 8, 0.991, "x", 0.951, 4000)
    assert best_of([poor, fair, good]) is fair
    assert best_of([MeasuredReadout(1, "mean", None, 256, 0.9, "x", 0.2, 4000), poor]) is poor


class Wide(gymnasium.Env):
    """40 numbers: 38 that vary, one that seldom does, and one that never does."""

    action_space = gymnasium.spaces.Discrete(2)
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (40,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action):
        self.steps += 1
        return self.observe(), 0.0, self.steps == 30, False, {}

    def observe(self):
        numbers = self.np_random.uniform(-1, 1, 40)
        numbers[38:] = self.np_random.random() < 0.004, 0.0
        return numbers.astype(np.float32)


def test_wide_observations_are_read_in_chunks_and_rare_numbers_are_not_judged(monkeypatch):
    gymnasium.register("Wide-v0", Wide)
    try:
        monkeypatch.setattr(readout, "STATES", 500)
        tried = list(readouts(configured("Wide-v0", readout="auto")))
        assert {(each.layers, each.pooling, each.chunk) for each in tried} == {(1, "field", readout.CHUNK)}
        assert [each.projection for each in tried] == [None, 256]  # more would be as many as states to fit to
        assert tried[-1].mean > 0.5
        assert "x38" not in {each.worst for each in tried}
        options, line = choose(configured("Wide-v0", readout="auto"), "backbone")
        assert (options.chunk, options.pooling) == (readout.CHUNK, "field")
        assert "pooling field in chunks of 8, 160 features in directions" in line
    finally:
        del gymnasium.registry["Wide-v0"]


def test_states_come_from_many_episodes_evenly():
    parts = build(configured("MountainCarContinuous-v0"))  # whose episodes last 999 steps
    states = readout.played(parts.environment, 400)
    assert states.shape == (400, 2)
    whole = draw(parts.environment, (), "random", 400, seed=0)  # of one episode and a half
    assert np.ptp(states[:, 0]) > 1.2 * np.ptp(whole[:, 0])


def test_a_run_says_and_keeps_its_choice_and_resumes_with_it(tmp_path, capfd, monkeypatch):
    options = {"algo.rollout_steps": 32, "run.num_envs": 2, "run.eval_episodes": 1}
    bitrl.run(ENV, steps=64, out=tmp_path / "run", options=options, progress=True)
    assert "readout of Pendulum-v1 by" in capfd.readouterr().err
    kept = tomllib.loads((tmp_path / "run" / "config.toml").read_text())["backbone"]
    assert (kept["layers"], kept["pooling"], kept["projection"]) == (1, "field", "none")
    assert read(kept["directions"], 256).shape == (4, 256)
    monkeypatch.setattr(readout, "readouts", None)  # nothing is measured again
    assert bitrl.resume(tmp_path / "run", steps=128)["steps"] == 128
    again = tmp_path / "again"
    bitrl.run(config=tmp_path / "run" / "config.toml", out=again, steps=32, options=options)
    assert tomllib.loads((again / "config.toml").read_text())["backbone"] == kept


def test_wrappers_choose_as_runs_do(chosen):
    env = FeatureObservation(gymnasium.make(ENV))
    features, _ = env.reset(seed=3)
    bare, _ = gymnasium.make(ENV).reset(seed=3)
    np.testing.assert_array_equal(features, build(chosen[0]).reader(bare[None]).features[0])


def test_several_fields_are_projected_as_the_engine_does():
    features = np.random.default_rng(0).normal(size=(5, 3 * 8)).astype(np.float32)
    for columns in (8, 16):
        projected, expected = readout.projected(features, 8, 3, columns), np.zeros((5, columns))
        for i, to in enumerate(count_sketch(3, 8, columns)):
            expected[:, max(to, -1 - to)] += features[:, i] if to >= 0 else -features[:, i]
        np.testing.assert_allclose(projected, expected, rtol=1e-5, atol=1e-6)


def test_numbers_are_read_in_directions_as_the_engine_does():
    options = TernaryOptions(layers=1, pooling="field", cache_mb=0)
    text = written(np.random.default_rng(0).normal(size=(2, 256)))
    texts = [f"{x:.3f} {-x:.2f}" for x in np.linspace(-3, 3, 300)]
    found = readout._in_directions(LanguageModel(options, 2), read(text, 256), texts)
    engine = LanguageModel(attrs.evolve(options, directions=text), 2).encode(texts)
    np.testing.assert_allclose(found, engine, rtol=1e-4, atol=1e-5)


def odd(name):
    return configured(f"odd_environments:{name}-v0")


@pytest.fixture
def few_states(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "field")
    monkeypatch.setattr(readout, "STATES", 400)


@pytest.mark.parametrize("name", ["ForbiddenRaises", "ForbiddenDoorRaises"])
def test_random_play_keeps_to_the_mask(name, few_states):
    assert choose(odd(name), "backbone") is not None


def test_a_fault_in_random_play_is_named_with_what_skips_it(few_states):
    with pytest.raises(RunFailed) as told:
        choose(odd("NanAtStep3"), "backbone")
    assert "NanAtStep3-v0, in step 3 of an episode: observation: expected finite numbers" in str(told.value)
    assert str(told.value).endswith(": mend that, or choose no readout by it: -o backbone.readout=set")
    assert "(random play, seed " in str(told.value)
    assert len(str(told.value)) <= 500


def test_commands_are_read_by_the_chosen_readout_too(few_states):
    options, _ = choose(odd("Commanded"), "backbone")
    assert options.pooling == "mean"
    with pytest.raises(UsageError, match=r'pooling "field" reads the numbers .* are commands, .* choose "mean"'):
        build(configured("odd_environments:Commanded-v0", pooling="field"))


def test_a_slow_environment_shows_how_far_random_play_is(few_states, capfd, monkeypatch):
    monkeypatch.setattr(display, "QUIET_SECONDS", -1.0)
    choose(odd("Plain"), "backbone")
    shown = [line for line in capfd.readouterr().err.splitlines() if line.startswith("random play: ")]
    assert shown[99] == "random play: 100 of 400 states"
    assert shown[-1].startswith("random play: 400 of 400 states")


def test_numbers_whose_squares_overflow_have_an_r_squared():
    drawn = np.random.default_rng(0).normal(size=(400, 3))
    features, scale = np.c_[drawn, drawn**2], [1e300, 1e-300, 1]
    found, expected = r_squared(features, drawn * scale), r_squared(features, drawn)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_readout_that_is_asked_for_is_chosen_where_an_environment_sets_its_own() -> None:
    def options(**backbone: Any) -> Any:
        return resolve({"run": {"env": "HalfCheetah-v5"}, "backbone": backbone}).backbone_options

    assert options().layers == 2
    assert options(readout="set").layers == 2
    assert options(readout="auto").layers is None
    assert options(readout="auto", layers=3).layers == 3
    critic = {"run": {"env": "HalfCheetah-v5", "critic_backbone": "int8"}, "critic_backbone": {"readout": "auto"}}
    found = resolve(critic)
    assert (found.backbone_options.layers, found.critic_backbone_options.layers) == (2, None)


@pytest.mark.parametrize(
    ("env", "backbone", "told"),
    [
        ("HalfCheetah-v5", {"model": "some.gguf"}, True),
        ("HalfCheetah-v5", {}, False),
        ("HalfCheetah-v5", {"model": "random:starter"}, False),
        ("HalfCheetah-v5", {"model": "starter-fp16"}, False),
        ("HalfCheetah-v5", {"model": "some.gguf", "layers": 3}, False),
        ("CartPole-v1", {"model": "some.gguf"}, True),
        ("BabyAI-GoToRedBall-v0", {"model": "some.gguf"}, False),
    ],
)
def test_how_many_blocks_an_environment_sets_holds_for_the_starter_alone(
    env: str, backbone: dict[str, Any], told: bool
) -> None:
    config = resolve({"run": {"env": env}, "backbone": backbone})
    found = choose(config, "backbone")
    assert (found is not None) == told
    if found is not None:
        assert found[0] == config.backbone_options
        assert found[0].layers is None
        layers = {"HalfCheetah-v5": 2, "CartPole-v1": 1}[env]
        assert found[1].startswith(
            f"all blocks of some.gguf are read: backbone.layers={layers}, as {env} sets it, is for the starter;"
        )


def test_the_classic_tasks_are_read_after_the_first_block() -> None:
    for env in ("CartPole-v1", "Acrobot-v1", "MountainCar-v0"):
        found = resolve({"run": {"env": env, "critic_backbone": "int8"}, "critic_backbone": {"model": "some.gguf"}})
        assert (found.backbone_options.layers, found.critic_backbone_options.layers) == (1, None)
