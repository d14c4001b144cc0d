"""The estimators of an analysis, each where the answer is known."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise
from types import SimpleNamespace

import attrs
import numpy as np
import pytest
import torch

from bitrl.core.acting.policies import ActorCritic, Continuous, Discrete, Network
from bitrl.core.environments.collector import Rollout
from bitrl.core.studies.analysis import analysis, visited
from bitrl.core.studies.analysis.action_choice import (
    disagreement,
    entropies,
    greedy_actions,
    initial_entropy,
    orthogonal,
)
from bitrl.core.studies.analysis.description import percent
from bitrl.core.studies.analysis.linear_map import explained, fit_map
from bitrl.core.studies.analysis.policy_gradient import Taken, gradient_error, policy_gradients
from bitrl.core.studies.analysis.power_law import power_law
from bitrl.core.studies.analysis.precision import relative_error
from bitrl.core.studies.analysis.td_values import GAMMAS, TDValues, Transitions, td_errors, td_values, values_alike
from bitrl.core.studies.charts import Series, log_ticks, series_chart
from bitrl.plugins.algos.gae import gae, next_values

EPSILONS = np.geomspace(0.005, 0.25, 10)


def network(*layers: tuple[np.ndarray, np.ndarray], limit: float = np.inf) -> Network:
    width = layers[0][0].shape[1]
    return Network(np.zeros(width, np.float32), np.ones(width, np.float32), limit, layers)


def heads(policy: Network, log_std: np.ndarray | None = None, value: Network | None = None) -> ActorCritic:
    bound = np.full(len(policy.layers[-1][1]), 2.0, np.float32)
    acts = Discrete(policy) if log_std is None else Continuous(policy, -bound, bound)
    return ActorCritic(acts, log_std, value or policy, 2.0, 0.9, 0.8)


def random_layers(*widths: int) -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(1)
    return [
        (generator.standard_normal((b, a)).astype(np.float32), generator.standard_normal(b).astype(np.float32))
        for a, b in pairwise(widths)
    ]


# ---- ε ----


def test_the_relative_error_of_a_matrix_by_hand():
    weights = np.array([[3.0, 0.0], [0.0, 4.0]])
    assert relative_error(weights + np.array([[0.0, 0.3], [0.4, 0.0]]), weights) == pytest.approx(0.1)
    assert relative_error(weights, weights) == 0
    assert relative_error(np.zeros(3), np.zeros(3)) == 0
    assert relative_error(np.ones(3), np.zeros(3)) == np.inf


def test_percentages_have_two_digits_or_all_before_the_point():
    shown = [percent(value) for value in (0.0, 0.00123, 0.0957, 0.0996, 0.994, 0.996, 1.0, 3.38)]
    assert shown == ["0 %", "0.12 %", "9.6 %", "10 %", "99 %", "100 %", "100 %", "338 %"]


# ---- power laws ----


@pytest.mark.parametrize(("exponent", "factor"), [(2.0, 0.3), (1.0, 5.0), (-0.5, 1.0)])
def test_an_exact_power_law_is_recovered(exponent, factor):
    found = power_law(EPSILONS, factor * EPSILONS**exponent)
    assert found.exponent == pytest.approx(exponent)
    assert found.factor == pytest.approx(factor)
    assert found.interval == pytest.approx((exponent, exponent), abs=1e-6)
    assert (found.points, found.left_out, found.r_squared) == (10, 0, pytest.approx(1))


def test_the_interval_of_an_exponent_covers_it_in_95_of_100_draws():
    generator, covered, excluded = np.random.default_rng(5), 0, 0
    for _ in range(300):
        low, high = power_law(EPSILONS, 0.3 * EPSILONS**2 * np.exp(0.3 * generator.standard_normal(10))).interval
        covered += low <= 2 <= high
        excluded += not low <= 1 <= high
    assert 0.92 <= covered / 300 <= 0.98  # ± 1.26 % by chance
    assert excluded == 300


def test_points_that_are_not_positive_are_left_out_and_few_are_no_fit():
    found = power_law([0.1, 0.2, 0.3, 0.4, 0.5], [0.1, 0.2, 0.3, 0.4, 0.0])
    assert (found.exponent, found.points, found.left_out) == (pytest.approx(1), 4, 1)
    assert power_law([0.1, 0.2, 0.3], [1, 2, 3]) is None
    assert power_law([0.1] * 5, [1, 2, 3, 4, 5]) is None


def test_the_interval_of_an_exponent_of_biases_covers_it_though_all_share_their_samples():
    """Gradients that move by ε·a + ε²·b, where a has mean zero: the exponent of their bias is 2. The noise of a is
    common to all roundings, so that their biases lie on a smooth curve, however far from 2.
    """
    generator, chunks, parameters, draws, covered = np.random.default_rng(4), 32, 50, 60, 0
    for _ in range(draws):
        noise = generator.standard_normal((chunks, parameters))
        reference = 1 + generator.standard_normal((chunks, parameters))
        errors = [gradient_error(reference, reference + e * noise + 5 * e**2) for e in EPSILONS]
        rounded = [
            analysis.Rounded("rounded", e, e, error.bias, error.bias_interval, error.apparent, error.biases)
            for e, error in zip(EPSILONS, errors, strict=True)
        ]
        [overall, *_] = analysis._fits(rounded)
        low, high = overall.bias.interval
        covered += low <= 2 <= high
        assert high - low < 1.5
    assert covered / draws >= 0.9  # 0.95 - 0.9 is 1.8 standard deviations of so many draws


# ---- the policy gradient ----


@pytest.mark.parametrize("kind", ["discrete", "masked", "box"])
def test_the_policy_gradient_is_that_of_autograd(kind):
    generator = np.random.default_rng(0)
    layers, size = random_layers(4, 6, 3), 12
    features, advantages = generator.standard_normal((size, 4)).astype(np.float32), generator.standard_normal(size)
    mask = None if kind != "masked" else generator.random((size, 3)) < 0.7
    log_std = np.array([0.1, -0.2, 0.3], np.float32) if kind == "box" else None
    actions = generator.integers(0, 3, size) if kind != "box" else generator.standard_normal((size, 3))
    if mask is not None:
        mask[np.arange(size), actions] = True
    found = policy_gradients(heads(network(*layers), log_std), features, Taken(actions, advantages, mask), 3)

    parameters = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for layer in layers for array in layer]
    w1, b1, w2, b2 = parameters
    outputs = torch.tanh(torch.tensor(features, dtype=torch.float64) @ w1.t() + b1) @ w2.t() + b2
    if log_std is None:
        logits = outputs if mask is None else outputs.masked_fill(~torch.tensor(mask), -1e9)
        log_probs = torch.distributions.Categorical(logits=logits).log_prob(torch.tensor(actions))
        order = (w2, b2, w1, b1)
    else:
        deviation = torch.tensor(log_std, dtype=torch.float64, requires_grad=True)
        log_probs = torch.distributions.Normal(outputs, deviation.exp()).log_prob(torch.tensor(actions)).sum(dim=1)
        order = (deviation, w2, b2, w1, b1)
    for chunk in range(3):
        rows = slice(4 * chunk, 4 * chunk + 4)
        expected = torch.autograd.grad((torch.tensor(advantages) * log_probs)[rows].mean(), order, retain_graph=True)
        flat = torch.cat([each.flatten() for each in expected]).numpy()
        np.testing.assert_allclose(found[chunk], flat, atol=1e-12)


def test_cosine_and_norm_ratio_of_a_linear_policy_by_hand():
    # Equal logits, so p = (½, ½). Advantages of 1 for action 0: ∇W = (½, −½)ᵀ·f.
    policy = heads(network((np.zeros((2, 2), np.float32), np.zeros(2, np.float32))))
    samples = Taken(np.zeros(4, int), np.ones(4))
    reference = policy_gradients(policy, np.tile(np.float32([[1, 0]]), (4, 1)), samples, 2)
    np.testing.assert_allclose(reference, np.tile([0.5, 0, -0.5, 0, 0.5, -0.5], (2, 1)))
    other = policy_gradients(policy, np.tile(np.float32([[0, 2]]), (4, 1)), samples, 2)
    found = gradient_error(reference, other)
    # ⟨g, g'⟩ = the biases' ½; ‖g‖² = 1, ‖g'‖² = 2½; g' − g = (−½, 1, ½, −1, 0, 0).
    assert found.cosine == pytest.approx(0.5 / np.sqrt(2.5))
    assert found.norm_ratio == pytest.approx(np.sqrt(2.5))
    assert found.bias == found.apparent == pytest.approx(np.sqrt(2.5))
    same = gradient_error(reference, reference)
    assert (same.bias, same.apparent, same.cosine, same.norm_ratio) == (0, 0, pytest.approx(1), 1)
    assert gradient_error(0 * reference, other) is None


def test_the_bias_is_told_from_the_noise_of_the_samples():
    generator, chunks, parameters = np.random.default_rng(2), 32, 200
    biases, apparent = [], []
    for _ in range(60):
        reference = np.ones((chunks, parameters))
        noise = generator.standard_normal((chunks, parameters))
        found = gradient_error(reference, reference + 0.1 + noise)
        biases.append(found.bias**2)
        apparent.append(found.apparent**2)
    assert np.mean(biases) == pytest.approx(0.1**2, rel=0.1)  # ‖0.1‖² / ‖1‖²
    assert np.mean(apparent) == pytest.approx(0.1**2 + 1 / chunks, rel=0.1)


# ---- values ----


def chain(gamma: float) -> tuple[Transitions, np.ndarray]:
    """State 0 leads to 1 with reward 1; 1 leads to the end with reward 2, or back to 0 with reward 0, in turn."""
    state = np.tile([0, 1, 0, 1], 8)
    rewards = np.tile([1.0, 2.0, 1.0, 0.0], 8)
    terminated = np.tile([False, True, False, False], 8)
    chunk = np.repeat([0, 1], 16)
    # V1 = ½·2 + ½·(0 + γ·V0), V0 = 1 + γ·V1.
    v0 = (1 + gamma) / (1 - gamma**2 / 2)
    v1 = (v0 - 1) / gamma
    return Transitions(state, 1 - state, rewards, terminated, chunk), np.where(state == 0, v0, v1)


@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99])
def test_values_of_a_chain_of_two_states(gamma):
    steps, exact = chain(gamma)
    np.testing.assert_allclose(td_values(np.eye(2), steps, (gamma,), ridge=1e-8).values, [exact], rtol=1e-6)
    # A constant is all that features without information can learn: the fixed point is ½·(1 + 1) / (1 − ¾·γ).
    np.testing.assert_allclose(td_values(np.zeros((2, 3)), steps, (gamma,)).values, 1 / (1 - 0.75 * gamma), rtol=1e-9)


def test_errors_of_values_grow_as_they_are_made_to():
    steps, _ = chain(0.9)
    horizons = 1 / (1 - np.array(GAMMAS)[:, None])

    def known(values: np.ndarray) -> TDValues:
        return TDValues(values, np.stack([values, values]))

    reference = np.random.default_rng(0).standard_normal((5, 32)) * horizons
    found = td_errors(known(1.1 * reference), known(reference), steps)
    assert [*found.relative.values()] == pytest.approx([0.1] * 5)
    shifted = td_errors(known(reference + 0.01 * horizons), known(reference), steps)
    assert shifted.absolute[0.99] == pytest.approx(1)
    assert shifted.growth.exponent == pytest.approx(1)
    assert shifted.growth.interval == pytest.approx((1, 1))


def random_walk(generator: np.random.Generator, steps: int, states: int = 20) -> Transitions:
    """On a ring, in 32 chunks; it ends with probability 0.05, and starts anywhere."""
    path = [0]
    following, rewards, terminated = [], [], generator.random(steps) < 0.05
    for ended in terminated:
        following.append((path[-1] + generator.choice([-1, 1])) % states)
        rewards.append(np.sin(following[-1]) + generator.standard_normal())
        path.append(generator.integers(states) if ended else following[-1])
    chunk = np.arange(steps) * 32 // steps
    return Transitions(np.array(path[:-1]), np.array(following), np.array(rewards), terminated, chunk)


def test_values_without_a_chunk_are_those_learned_from_the_others():
    generator = np.random.default_rng(0)
    features, steps = generator.standard_normal((20, 4)), random_walk(generator, 256)
    found = td_values(features, steps)
    assert found.without.shape == (32, 5, 256)
    rest = steps.chunk != 3
    others = Transitions(*(each[rest] for each in attrs.astuple(steps)))
    np.testing.assert_allclose(found.without[3][:, rest], td_values(features, others).values, rtol=0.05, atol=1e-3)
    assert np.array_equal(found.without[3][:, steps.chunk % 2 == 1], found.values[:, steps.chunk % 2 == 1])


def test_the_interval_of_the_growth_of_value_errors_covers_what_other_steps_give():
    generator = np.random.default_rng(0)
    features = generator.standard_normal((20, 4))
    other = features + 0.1 * generator.standard_normal(features.shape)
    laws = []
    for _ in range(60):
        steps = random_walk(generator, 1024)
        laws.append(td_errors(td_values(other, steps), td_values(features, steps), steps).growth)
    middle = np.median([law.exponent for law in laws])
    assert np.mean([law.interval[0] <= middle <= law.interval[1] for law in laws]) >= 0.9


def test_values_that_are_all_alike_are_recognised():
    steps, _ = chain(0.9)
    forever = attrs.evolve(steps, rewards=np.ones(32), terminated=np.zeros(32, bool))
    assert values_alike(td_values(np.eye(2), forever))
    assert not values_alike(td_values(np.eye(2), steps))


@pytest.mark.parametrize(("different", "words"), [(1, "only one state was"), (16, "only 16 different states were")])
def test_few_different_states_are_told_of(different, words):
    steps, _ = chain(0.9)
    few = SimpleNamespace(different=different, random=False)
    [note] = analysis._notes(256, few, td_values(np.eye(2), steps))
    assert note.startswith(f"{words} visited in 256 steps")


def test_advantages_are_those_that_ppo_learns_from():
    generator = np.random.default_rng(3)
    value = network(*random_layers(3, 5, 1))
    reader = SimpleNamespace(critic=None)

    def states(n: int) -> SimpleNamespace:
        features = generator.standard_normal((n, 3)).astype(np.float32)
        return SimpleNamespace(features=features, critic_features=features, reader=reader)

    rollout = Rollout(
        states=tuple(states(2) for _ in range(7)),
        actions=np.zeros((6, 2)),
        rewards=generator.standard_normal((6, 2)).astype(np.float32),
        terminated=np.arange(12).reshape(6, 2) == 3,
        truncated=np.arange(12).reshape(6, 2) == 6,
        valid=np.ones((6, 2), bool),
        final_steps=np.array([[3, 0]]),
        final_states=states(1),
        returns=np.zeros(0),
        lengths=np.zeros(0, np.int64),
    )
    critic = heads(value, value=value)
    values = value(rollout.critic_features)[..., 0]
    scaled = attrs.evolve(rollout, rewards=rollout.rewards / 2)
    after = next_values(scaled, values, value(rollout.final_critic_features)[:, 0])
    np.testing.assert_allclose(visited._advantages(rollout, critic), gae(scaled, values, after, 0.9, 0.8), atol=1e-5)


# ---- actions ----


def test_the_entropy_of_a_uniform_policy():
    assert entropies(np.zeros((3, 4))) == pytest.approx([np.log(4)] * 3)
    assert entropies(np.array([[0.0, -1e9]])) == pytest.approx([0])
    assert initial_entropy(np.zeros((5, 3)), (8, 4)) == pytest.approx(np.log(4))
    two = np.tile([True, False, True, False], (5, 1))
    assert initial_entropy(np.zeros((5, 3)), (8, 4), two) == pytest.approx(np.log(2))
    small, large = (initial_entropy(scale * np.eye(6), (8, 4)) for scale in (0.1, 10))
    assert large < small < np.log(4)


def test_orthogonal_weights_are_orthogonal():
    for rows, columns in ((3, 5), (5, 3)):
        found = orthogonal(rows, columns, np.random.default_rng(0))
        smaller = found @ found.T if rows < columns else found.T @ found
        np.testing.assert_allclose(smaller, np.eye(3), atol=1e-12)


def test_disagreement_by_hand():
    chooses = heads(network((np.eye(2, dtype=np.float32), np.zeros(2, np.float32))))
    reference = greedy_actions(chooses, np.float32([[1, 0], [0, 1], [2, 1], [1, 2]]))
    other = greedy_actions(chooses, np.float32([[1, 0], [1, 0], [1, 2], [1, 2]]))
    assert disagreement(other, reference) == 0.5
    masked = greedy_actions(chooses, np.float32([[1, 0]]), np.array([[False, True]]))
    assert masked.tolist() == [1]
    moves = heads(network((np.eye(2, dtype=np.float32), np.zeros(2, np.float32))), np.zeros(2, np.float32))
    far = greedy_actions(moves, np.float32([[0, 9]]))  # clipped at 2
    assert disagreement(far, greedy_actions(moves, np.float32([[0, 1]]))) == pytest.approx(np.sqrt(1 / 2))


# ---- maps ----


def test_a_linear_map_is_found():
    generator = np.random.default_rng(0)
    features, weights = generator.standard_normal((60, 4)), generator.standard_normal((4, 3))
    targets = features @ weights + 5
    fitted = fit_map(features[:40], targets[:40], ridge=0)
    np.testing.assert_allclose(fitted(features[40:]), targets[40:], atol=1e-5)
    assert explained(fitted(features[40:]), targets[40:]) == pytest.approx(1)
    assert explained(np.tile(targets[40:].mean(axis=0), (20, 1)), targets[40:]) == pytest.approx(0)


# ---- pictures ----


def test_a_chart_of_series_on_logarithmic_axes():
    assert log_ticks(0.0009, 20) == pytest.approx([0.001, 0.01, 0.1, 1, 10])
    assert log_ticks(1.5, 60) == pytest.approx([2, 5, 10, 20, 50])
    dotted = Series("dots", ((0.1, 1.0), (1.0, 10.0), (10.0, 100.0), (5.0, 0.0)))
    series = [dotted, Series("a line", ((1, 1), (9, 9)), True)]
    root = ET.fromstring(series_chart("title", "x", "y", series, log_x=True, log_y=True))
    dots = [(float(each.get("cx")), float(each.get("cy"))) for each in root.iter("{http://www.w3.org/2000/svg}circle")]
    assert len(dots) == 3 + 1  # that at zero is left out; one is in the legend
    (x0, y0), (x1, y1), (x2, y2), _ = dots
    assert (x1 - x0, y1 - y0) == pytest.approx((x2 - x1, y2 - y1), abs=0.2)
    assert x0 < x1
    assert y0 > y1
    assert "nothing to draw" in series_chart("title", "x", "y", [Series("dots", ((0.0, 1.0),))], log_x=True)
