"""The probe against least squares by another formula, features that hold the numbers, and features that hold none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hugging_face_models import add_tokenizer, llama

from bitrl.core.acting.loading import load_backbone
from bitrl.core.config import resolve
from bitrl.core.environments.environment import Environment
from bitrl.core.errors import UsageError
from bitrl.core.interfaces import Field
from bitrl.core.runs.parts import build
from bitrl.plugins.backbones.tools import probe as probing
from bitrl.plugins.backbones.tools.probe import Reading, Score, best, draw, probe, scores
from bitrl.plugins.backbones.tools.ridge import r_squared


def by_least_squares(x: np.ndarray, y: np.ndarray, ridge: float = 1e-3) -> np.ndarray:
    """Ridge regression as an ordinary one with a row more for each feature."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    cut = 3 * len(x) // 4
    x = (x - x[:cut].mean(0)) / x[:cut].std(0)
    centre = y[:cut].mean(0)
    more = np.sqrt(ridge * cut) * np.eye(x.shape[1])
    rows, rest = np.vstack([x[:cut], more]), np.vstack([y[:cut] - centre, np.zeros((x.shape[1], y.shape[1]))])
    guess = x[cut:] @ np.linalg.lstsq(rows, rest, rcond=None)[0] + centre
    return 1 - ((y[cut:] - guess) ** 2).sum(0) / ((y[cut:] - y[cut:].mean(0)) ** 2).sum(0)


@pytest.mark.parametrize("width", [7, 200])  # fewer features than rows to fit, and more
def test_r_squared_is_that_of_least_squares(width: int) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(160, width)) * rng.uniform(0.1, 9, width) + 3).astype(np.float32)
    y = np.stack([x[:, 0] * 5 + rng.normal(size=160), x[:, 1] ** 2, rng.normal(size=160)], axis=1)
    np.testing.assert_allclose(r_squared(x, y), by_least_squares(x, y), rtol=0, atol=1e-5)


def test_r_squared_knows_signal_from_noise() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 5))
    noise = rng.normal(size=4000)
    targets = np.stack([x @ np.arange(1.0, 6.0), x[:, 0] + noise, noise], axis=1)
    found = r_squared(x * 1000 + 7, targets)
    assert found[0] == pytest.approx(1, abs=1e-4)
    assert found[1] == pytest.approx(0.5, abs=0.06)
    assert found[2] == pytest.approx(0, abs=0.02)


def test_scores_tell_blocks_poolings_and_numbers_apart() -> None:
    rng = np.random.default_rng(1)
    states = rng.normal(size=(2000, 3)).astype(np.float32)
    states[:, 1] = 4  # never varies
    noise = rng.normal(size=(2000, 3))
    half = np.stack([states[:, 0], noise[:, 0], noise[:, 1]], axis=1)
    features = {"mean": np.stack([noise, states], axis=1), "last": np.stack([half, noise], axis=1)}
    found, constant = scores(features, states, ["a", "b", "c"])
    assert constant == ["b"]
    of = {(score.block, score.pooling): score for score in found}
    assert of[2, "mean"].mean == pytest.approx(1, abs=1e-4)
    assert of[1, "mean"].mean == pytest.approx(0, abs=0.02)
    assert of[1, "last"].fields == {"a": pytest.approx(1, abs=1e-4), "c": pytest.approx(0, abs=0.02)}
    assert of[1, "last"].mean == pytest.approx(0.5, abs=0.02)
    assert of[1, "last"].worst == "c"


def test_a_number_that_varies_only_where_it_is_judged_or_fitted_is_left_out() -> None:
    states = np.random.default_rng(0).normal(size=(80, 3))
    states[:60, 0] = 1
    states[60:, 2] = 1
    found, constant = scores({"mean": states[:, None]}, states, ["fit", "both", "judge"])
    assert constant == ["fit", "judge"]
    assert list(found[0].fields) == ["both"]
    assert scores({"mean": states[:, None]}, np.ones((80, 1)), ["x"]) == ([], ["x"])


def _reading(env: str, *values: tuple[int, str, float]) -> Reading:
    return Reading(env, "json", "uniform", 9.0, [], [], [Score(b, p, {"x": v}) for b, p, v in values])


def test_the_best_setting_is_one_that_every_reading_has() -> None:
    first = _reading("a", (1, "mean", 0.5), (2, "mean", 0.9), (3, "mean", 0.904), (3, "field", 0.99))
    second = _reading("b", (1, "mean", 0.6), (2, "mean", 0.8), (3, "mean", 0.801))
    found = best([first, second, _reading("no number varies")])
    assert found is not None
    top, cheaper = found
    assert (top.block, top.pooling, top.mean) == (3, "mean", pytest.approx(0.8525))
    assert top.options == "-o backbone.layers=3 -o backbone.pooling=mean"
    assert (cheaper.block, cheaper.mean) == (2, pytest.approx(0.85))
    assert best([_reading("none")]) is None


class Episodes(gymnasium.Env):
    """Two steps an episode; an observation holds its episode's own number, and the time."""

    observation_space = gymnasium.spaces.Box(-10, 10, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.time = self.np_random.uniform(), 0
        return np.array([self.episode, 0]), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return np.array([self.episode, self.time]), 0.0, False, self.time == 2, {}


class EpisodesEnvironment(Environment):
    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        return Episodes()


def test_no_episode_is_both_fitted_and_judged() -> None:
    environment = EpisodesEnvironment(None, "episodes")
    states = draw(environment, environment.observation_spec().fields, "random", 80, seed=3)
    assert states.shape == (80, 2)
    assert states[:, 1].tolist()[:6] == [0, 1, 0, 1, 0, 1]  # the last of an episode is never acted on
    assert not {*states[:60, 0].tolist()} & {*states[60:, 0].tolist()}
    np.testing.assert_array_equal(
        states, draw(environment, environment.observation_spec().fields, "random", 80, seed=3)
    )
    assert (states != draw(environment, environment.observation_spec().fields, "random", 80, seed=4)).any()


def test_uniform_states_fill_the_bounds() -> None:
    environment = EpisodesEnvironment(None, "episodes")
    states = draw(environment, (Field("a", 2.0, 3.0), Field("free")), "uniform", 4000, seed=0)
    np.testing.assert_allclose(states.min(0), [2, -3], atol=0.01)
    np.testing.assert_allclose(states.max(0), [3, 3], atol=0.01)
    np.testing.assert_allclose(states.mean(0), [2.5, 0], atol=0.15)


def test_uniform_states_of_a_discrete_environment_are_its_numbers() -> None:
    parts = build(resolve({"run": {"env": "FrozenLake-v1"}}))
    states = draw(parts.environment, parts.environment.observation_spec().fields, "uniform", 400, seed=0)
    assert {*states.ravel().tolist()} == {*map(float, range(16))}


TEXTS = ['{"x": 0.5, "y": -12}', "", "a=1 b=-0.25", '{"position": 3.25, "speed": 7}'] * 20


def test_states_after_every_block_are_those_of_models_that_stop_there() -> None:
    whole = load_backbone("bitnet", width=2)
    features = whole.pooled_blocks(TEXTS, ["mean", "last", "field"], 2)  # type: ignore[attr-defined]
    for layers in (1, 2, 4):
        for pooling, rows in features.items():
            backbone = load_backbone("bitnet", width=2, layers=layers, pooling=pooling)
            np.testing.assert_allclose(rows[:, layers - 1], backbone.encode(TEXTS), rtol=0, atol=1e-6)
        engine, ids = backbone.engine, backbone._ids(TEXTS)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(whole.engine.encode_blocks(ids)[layers - 1], engine.encode(ids, "none"))  # type: ignore[attr-defined]


def test_the_starter_model_keeps_the_numbers_of_a_mountain_car() -> None:
    run = {"env": "MountainCar-v0", "serializer": "compact"}
    parts = build(resolve({"run": run, "backbone": {"layers": None}}))
    told: list[int] = []
    reading = probe(parts, ("MountainCar-v0", "compact"), "uniform", ["mean", "field"], 400, 0, told.append)
    assert told[-1] == 400
    assert {(score.block, score.pooling) for score in reading.scores} == {
        (block, pooling) for block in (1, 2, 3, 4) for pooling in ("mean", "field")
    }
    top = {score.pooling: score for score in reading.scores if score.block == 4}
    assert top["mean"].fields.keys() == {"position", "velocity"}
    assert top["mean"].mean > 0.9  # far more than noise, with few states
    assert reading.notes == ["pooling field gives 512 features: 300 states to fit are few, take a larger --count"]


def test_field_pooling_is_left_out_where_texts_hold_other_numbers() -> None:
    parts = build(resolve({"run": {"env": "MountainCar-v0"}}))
    write = parts.reader.serializer.batch
    parts.reader.serializer.batch = lambda states: [f"step 5: {text}" for text in write(states)]  # type: ignore[method-assign]
    reading = probe(parts, ("MountainCar-v0", "json"), "uniform", ["mean", "field"], 400, 0)
    assert {score.pooling for score in reading.scores} == {"mean"}
    assert "not every text holds 2 numbers" in reading.notes[0]


def test_what_cannot_be_probed_is_refused() -> None:
    vectors = build(resolve({"run": {"backbone": "mlp"}}))
    with pytest.raises(UsageError, match="expected a language model to probe: --backbone bitnet, int8, int4 or bf16"):
        probe(vectors, ("CartPole-v1", "vector"), "uniform", ["mean"], 40, 0)
    parts = build(resolve({}))
    with pytest.raises(UsageError, match="GB of memory are free"):
        probing._check_memory(parts.reader.backbone, ["mean"], 10**12, 4)  # type: ignore[arg-type]


def test_what_would_not_fit_beside_a_groups_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "available_memory", lambda: 1_000_000)
    backbone: Any = build(resolve({})).reader.backbone
    with pytest.raises(UsageError, match=r"features of 4,000 states take 0\.0 GB, and 0\.0 GB of memory are free"):
        probing._check_memory(backbone, ["mean"], 4000, 4)


def test_tokens_are_those_that_the_model_reads(tmp_path: Path) -> None:
    """Not also those that a tokenizer.json puts around a text by itself."""
    llama(vocab_size=300, max_position_embeddings=256).save_pretrained(tmp_path)
    add_tokenizer(tmp_path, add_bos_token=False)
    chosen = {"run": {"env": "MountainCar-v0", "backbone": "bf16"}, "backbone": {"model": str(tmp_path)}}
    parts = build(resolve(chosen))
    reading = probe(parts, ("MountainCar-v0", "json"), "uniform", ["mean"], 40, 0)
    fields = parts.environment.observation_spec().fields
    texts = parts.reader.serializer.batch(draw(parts.environment, fields, "uniform", 40, 0))
    backbone: Any = parts.reader.backbone
    assert reading.tokens == np.mean(backbone.token_counts(texts))
