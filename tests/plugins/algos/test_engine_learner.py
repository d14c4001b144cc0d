"""Learning in the engine against autograd and finite differences in float64, and the same bits however it is run."""

import math
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_twins import double as constant
from torch_twins import flat, in_torch

from bitrl.core.errors import RunFailed, UsageError
from bitrl.plugins.algos.engine_learner import (
    EngineAdam,
    EngineCategorical,
    EngineChoice,
    EngineGaussian,
    EngineLearner,
    EngineNetwork,
    SampleCorrection,
    backward,
    clipped_loss,
    forward,
    orthogonal,
    parameter_count,
    squared_loss,
)
from bitrl.plugins.algos.estimators import LIMIT, Corrected, Estimator, policy_loss
from bitrl.plugins.backbones.engine.engine import instruction_sets

LEARNER = EngineLearner()
RNG = np.random.default_rng


def floats(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * rng.normal(size=shape)).astype(np.float32)


def double(array: np.ndarray) -> Tensor:
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


def network(widths: Sequence[int], batch: int, learner: EngineLearner = LEARNER, seed: int = 0) -> EngineNetwork:
    made = EngineNetwork(learner, widths, batch)
    made.initialise(1.0, seed)
    made.parameters += floats(RNG(seed), len(made.parameters), scale=0.01)  # biases too
    return made


def near(got: np.ndarray, want: Tensor | np.ndarray, tolerance: float = 2e-6) -> None:
    """Each differs by at most `tolerance` times the largest."""
    want = want.detach().numpy() if isinstance(want, Tensor) else want
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * max(np.abs(want).max(), 1e-30)


# ---- networks ----


@pytest.mark.parametrize(
    ("widths", "samples", "scale"),
    [
        ((256, 256, 128, 2), 64, 1.0),
        ((1, 1), 1, 1.0),
        ((3, 5, 1), 1, 1.0),
        ((5, 7, 3), 9, 1e-20),
        ((5, 70, 33, 3), 9, 1e30),  # every tanh is saturated
        ((4, 64, 64, 2), 65, 1.0),
        ((600, 17, 40), 300, 1.0),
        ((33, 16, 15), 6, 1.0),
    ],
    ids=str,
)
def test_passes_are_autograds_in_float64(widths, samples, scale):
    net, rng = network(widths, samples + 3), RNG(1)
    inputs, by_outputs = floats(rng, samples, widths[0], scale=scale), floats(rng, samples, widths[-1])
    net.gradients[:] = np.nan  # all of them are set
    outputs = net.forward(inputs)
    by_inputs = net.backward(by_outputs, by_inputs=True)

    x, parameters = double(inputs), [(double(weights), double(biases)) for weights, biases in net.layers]
    y = x
    for index, (weights, biases) in enumerate(parameters):
        y = y @ weights + biases
        y = y.tanh() if index < len(parameters) - 1 else y
    y.backward(torch.tensor(by_outputs, dtype=torch.float64))
    near(outputs, y)
    near(by_inputs, x.grad)
    at = 0
    for each in (one for pair in parameters for one in pair):
        near(net.gradients[at : at + each.numel()].reshape(each.shape), each.grad)
        at += each.numel()
    assert at == parameter_count(widths) == len(net.gradients)


def test_a_sample_has_the_same_outputs_in_any_batch():
    net = network((40, 33, 5), 100)
    inputs = floats(RNG(0), 250, 40)
    whole = net.outputs(inputs)
    np.testing.assert_array_equal(whole[100:101], net.forward(inputs[100:101]))
    np.testing.assert_array_equal(whole[7:64], net.forward(inputs[7:64]))
    assert net.outputs(inputs[:0]).shape == (0, 5)


def test_parameters_may_be_slices_of_one_array_with_others():
    sizes = [parameter_count((3, 4, 2)), 2]
    flat, gradients = np.zeros(sum(sizes), np.float32), np.zeros(sum(sizes), np.float32)
    net = EngineNetwork(LEARNER, (3, 4, 2), 8, flat[: sizes[0]], gradients[: sizes[0]])
    net.initialise(0.0, 1)
    assert np.abs(net.forward(floats(RNG(0), 8, 3))).max() == 0  # the last layer's gain
    net.backward(np.ones((8, 2), np.float32))
    np.testing.assert_array_equal(gradients[-4:], [8, 8, 0, 0])  # biases of the last layer, and what is not its own
    assert flat[:12].any()


# ---- initial weights ----


@pytest.mark.parametrize(("inputs", "outputs"), [(256, 256), (256, 30), (7, 40), (1, 1), (1, 9), (9, 1)])
def test_initial_weights_are_orthogonal(inputs, outputs):
    weights = orthogonal(inputs, outputs, 3.0, 5).astype(np.float64)
    few = weights.T @ weights if inputs >= outputs else weights @ weights.T
    np.testing.assert_allclose(few, 9 * np.eye(min(inputs, outputs)), atol=2e-6)


def test_initial_weights_are_uniform_among_orthogonal_ones():
    """An entry of a 3 x 3 matrix is uniform in (-1, 1), as a coordinate on the sphere is (Archimedes): the moments of
    4,000 are within 4 standard errors, and no two are nearly equal.
    """
    drawn = np.array([orthogonal(3, 3, 1.0, seed).ravel() for seed in range(4000)]).astype(np.float64)
    assert np.abs(drawn.mean(0)).max() < 4 * (1 / 3 / 4000) ** 0.5
    assert np.abs((drawn**2).mean(0) - 1 / 3).max() < 4 * (4 / 45 / 4000) ** 0.5
    assert len(np.unique(drawn[:, 0])) > 3990
    signs = np.linalg.det(drawn.reshape(-1, 3, 3))
    assert abs((signs > 0).mean() - 0.5) < 4 * 0.5 / 4000**0.5


# ---- heads ----


def differences(loss: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    """The gradient by central differences in float64."""
    out, step = np.zeros(at.shape), 1e-5
    for index in np.ndindex(at.shape):
        up, down = at.astype(np.float64), at.astype(np.float64)
        up[index] += step
        down[index] -= step
        out[index] = (loss(up) - loss(down)) / (2 * step)
    return out


def log_softmax(logits: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    logits = logits if mask is None else np.where(mask, logits, -np.inf)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def categorical_twin(logits: np.ndarray, mask: np.ndarray | None, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logarithms = log_softmax(logits, mask)
    entropies = -(np.exp(logarithms) * np.maximum(logarithms, -1e9)).sum(axis=1)
    return logarithms[np.arange(len(actions)), actions], entropies


def some_mask(rng: np.random.Generator, actions: np.ndarray, choices: int) -> np.ndarray:
    mask = rng.random((len(actions), choices)) < 0.5
    mask[np.arange(len(actions)), actions] = True
    return mask


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("samples", "choices", "scale"), [(9, 4, 1.0), (1, 2, 1.0), (5, 40, 30.0), (3, 1, 1.0)])
def test_categorical_gradients_are_finite_differences(samples, choices, scale, masked):
    rng, head = RNG(2), EngineCategorical(LEARNER)
    logits, actions = floats(rng, samples, choices, scale=scale), rng.integers(0, choices, samples)
    mask = some_mask(rng, actions, choices) if masked else None
    weights, beta = floats(rng, samples), 0.3
    log_probs, entropies = head.forward(logits, actions, mask)
    want = categorical_twin(logits.astype(np.float64), mask, actions)
    near(log_probs, want[0])
    np.testing.assert_allclose(entropies, want[1], rtol=2e-6, atol=1e-7)  # float32 cannot tell a probability near 1
    got = head.backward(weights, beta)

    def loss(at: np.ndarray) -> float:
        of, entropy = categorical_twin(at, mask, actions)
        return float((weights * of).sum() + beta * entropy.sum())

    assert np.abs(got - differences(loss, logits)).max() < 1e-5
    if mask is not None:
        assert np.abs(got[~mask]).max(initial=0) == 0


@pytest.mark.parametrize("size", [1e-30, 1e4, 1e30])
def test_categorical_with_huge_and_tiny_logits_is_float64s(size):
    rng, head = RNG(3), EngineCategorical(LEARNER)
    logits, actions = floats(rng, 6, 5, scale=size), rng.integers(0, 5, 6)
    log_probs, entropies = head.forward(logits, actions)
    want, entropy = categorical_twin(logits.astype(np.float64), None, actions)
    np.testing.assert_allclose(log_probs, want, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(entropies, entropy, rtol=1e-6, atol=1e-6)
    assert np.isfinite(head.backward(floats(rng, 6), 0.1)).all()


@pytest.mark.parametrize(("samples", "dims", "scale"), [(9, 3, 1.0), (1, 1, 1.0), (4, 6, 1e-6), (4, 2, 1e3)])
def test_gaussian_gradients_are_finite_differences(samples, dims, scale):
    rng = RNG(4)
    means, actions, weights, beta = (
        floats(rng, samples, dims, scale=scale), floats(rng, samples, dims), floats(rng, samples), 0.3
    )  # fmt: skip
    log_std = floats(rng, dims, scale=0.5)
    head = EngineGaussian(LEARNER, log_std, np.empty_like(log_std))

    def parts(means: np.ndarray, log_std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        normal = torch.distributions.Normal(torch.tensor(means), torch.tensor(np.exp(log_std)))
        return normal.log_prob(torch.tensor(actions)).sum(1).numpy(), normal.entropy().sum(1).numpy()

    def loss(means: np.ndarray, log_std: np.ndarray) -> float:
        of, entropy = parts(means, log_std)
        return float((weights * of).sum() + beta * entropy.sum())

    wide_means, wide_std = means.astype(np.float64), log_std.astype(np.float64)
    for got, want in zip(head.forward(means, actions), parts(wide_means, wide_std), strict=True):
        near(got, want)
    near(head.backward(weights, beta), differences(lambda at: loss(at, wide_std), means), 1e-5)
    near(head.by_log_std, differences(lambda at: loss(wide_means, at), log_std), 1e-5)


@pytest.mark.parametrize(("samples", "commands", "most"), [(7, 9, 5), (1, 1, 1), (5, 40, 20)])
def test_choices_of_text_have_the_gradients_of_finite_differences(samples, commands, most):
    rng, head = RNG(5), EngineChoice(LEARNER)
    queries, keys = floats(rng, samples, 6), floats(rng, commands, 6)
    places, actions = rng.integers(0, commands, (samples, most)), rng.integers(0, most, samples)
    mask, weights, beta = some_mask(rng, actions, most), floats(rng, samples), 0.3

    def loss(queries: np.ndarray, keys: np.ndarray) -> float:
        logits = np.take_along_axis(queries @ keys.T / 6**0.5, places, axis=1)
        of, entropy = categorical_twin(logits, mask, actions)
        return float((weights * of).sum() + beta * entropy.sum())

    head.forward(queries, keys, places, mask, actions)
    by_queries, by_keys = head.backward(weights, beta)
    wide_queries, wide_keys = queries.astype(np.float64), keys.astype(np.float64)
    assert np.abs(by_queries - differences(lambda at: loss(at, wide_keys), queries)).max() < 1e-5
    assert np.abs(by_keys - differences(lambda at: loss(wide_queries, at), keys)).max() < 1e-5


# ---- losses ----


def some_ratios(rng: np.random.Generator, samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities, old ones, advantages: ratios on both sides of the range, a few far beyond."""
    log_probs = floats(rng, samples)
    old = log_probs + floats(rng, samples, scale=0.4)
    old[:: samples // 3 + 1] -= 30
    return log_probs, old, floats(rng, samples, scale=3.0)


@pytest.mark.parametrize("correction", ["acr", "mis", "tis"])
def test_the_corrected_loss_is_the_estimators_in_float64(correction):
    rng = RNG(6)
    log_probs, old, advantages = some_ratios(rng, 40)
    weight, r, kept = rng.uniform(0.1, 2, 40), rng.uniform(0.5, 1, 40), rng.random(40) < 0.7
    weight, r = weight.astype(np.float32), r.astype(np.float32)
    got = clipped_loss(LEARNER, log_probs, old, advantages, 0.2, SampleCorrection(weight, r, kept))

    current = double(log_probs)
    as_sequences = [torch.tensor(each, dtype=torch.float64)[:, None] for each in (old, weight, r)]
    corrected = Corrected(*as_sequences, torch.tensor(kept)[:, None])
    standard = torch.tensor(advantages, dtype=torch.float64)
    standard = (standard - standard.mean()) / (standard.std() + 1e-8)
    how = Estimator(correction)
    total, count, sums = policy_loss(current[:, None], corrected, standard, how)
    (total / count).backward()
    near(got.by_log_probs, current.grad, 1e-5)
    assert got.approx_kl == pytest.approx(float(sums["approx_kl"] / count), rel=1e-5)
    log_ratio = (current.detach() - as_sequences[0][:, 0]).clamp(-LIMIT, LIMIT).where(corrected.kept[:, 0], 0.0)
    weighed = (standard * corrected.weight[:, 0]).where(corrected.kept[:, 0] & (log_ratio.abs() < LIMIT), 0.0)
    ratio, counted = log_ratio.exp(), int(kept.sum())
    clipped = ratio.clamp(min=0.8).minimum(1.2 / corrected.r[:, 0])
    assert got.loss == pytest.approx(
        -float(torch.minimum(ratio * weighed, clipped * weighed).sum()) / counted, rel=1e-5
    )
    assert got.clip_fraction == pytest.approx(float((clipped != ratio).sum()) / counted)


@pytest.mark.parametrize("samples", [1, 2, 50])
def test_the_clipped_loss_is_autograds_in_float64(samples):
    log_probs, old, advantages = some_ratios(RNG(7), samples)
    old[:: samples // 3 + 1] += 29  # uncorrected ratios have no limit: keep them within float32
    got = clipped_loss(LEARNER, log_probs, old, advantages, 0.2)
    current, standard = double(log_probs), torch.tensor(advantages, dtype=torch.float64)
    if samples > 1:
        standard = (standard - standard.mean()) / (standard.std() + 1e-8)
    log_ratio = current - torch.tensor(old, dtype=torch.float64)
    ratio = log_ratio.exp()
    loss = -torch.minimum(ratio * standard, ratio.clamp(0.8, 1.2) * standard).mean()
    loss.backward()
    near(got.by_log_probs, current.grad, 1e-5)
    assert got.loss == pytest.approx(loss.item(), rel=1e-5)
    assert got.approx_kl == pytest.approx((ratio - 1 - log_ratio).mean().item(), rel=1e-4)
    assert got.clip_fraction == pytest.approx(float(((ratio - 1).abs() > 0.2).double().mean()))


def test_a_rollout_of_which_nothing_is_kept_has_no_gradient():
    log_probs, old, advantages = some_ratios(RNG(8), 5)
    ones = np.ones(5, np.float32)
    got = clipped_loss(LEARNER, log_probs, old, advantages, 0.2, SampleCorrection(ones, ones, np.zeros(5, bool)))
    assert not got.by_log_probs.any()
    assert (got.loss, got.approx_kl, got.clip_fraction) == (0, 0, 0)


def test_the_values_loss_by_hand():
    loss, by_values = squared_loss(np.float32([[1], [2]]), np.float32([0, 4]), 0.5)
    assert loss == 2.5
    np.testing.assert_array_equal(by_values, [[0.5], [-1]])


# ---- Adam ----


@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_adam_takes_torchs_steps(max_norm):
    rng, size = RNG(9), 1003
    parameters, gradients = floats(rng, size), np.zeros(size, np.float32)
    adam = EngineAdam(LEARNER, [parameters], [gradients], eps=1e-5)
    twin = nn.Parameter(torch.tensor(parameters.copy()))
    theirs = torch.optim.Adam([twin], lr=0.01, eps=1e-5)
    for step in range(20):
        gradients[:] = floats(rng, size, scale=10.0 ** (step % 7 - 3))
        gradients[: step % 3 * 300] = 0
        twin.grad = torch.tensor(gradients.copy())
        before = gradients.copy()
        (norm,) = adam.step([0.01], max_norm)
        wanted = nn.utils.clip_grad_norm_([twin], math.inf if max_norm is None else max_norm)
        assert norm == pytest.approx(float(wanted), rel=1e-5)
        np.testing.assert_array_equal(gradients, before)
        theirs.step()
    state = theirs.state[twin]
    assert adam.steps == [int(state["step"])] == [20]
    near(parameters, twin)
    near(adam.means[0], state["exp_avg"])
    near(adam.squares[0], state["exp_avg_sq"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sizes", [(1,), (40, 3), (140_000,), (7, 140_000)], ids=str)
def test_a_gradient_that_is_not_finite_changes_nothing(value, sizes):
    learner, rng = EngineLearner(2), RNG(10)
    parameters, gradients = ([floats(rng, size) for size in sizes] for _ in range(2))
    adam = EngineAdam(learner, parameters, gradients)
    adam.step([0.1] * len(sizes), 1.0)
    before = [each.copy() for each in (*parameters, *adam.means, *adam.squares)]
    gradients[-1][-1] = value
    with pytest.raises(RunFailed, match="a gradient is not a finite number: the step is discarded"):
        adam.step([0.1] * len(sizes), 1.0)
    for one, other in zip(before, (*parameters, *adam.means, *adam.squares), strict=True):
        np.testing.assert_array_equal(one, other)
    assert adam.steps == [1] * len(sizes)


def test_gradients_too_large_to_be_squared_in_float32_are_clipped():
    parameters, gradients = np.zeros(3, np.float32), np.float32([3e30, -4e30, 0])
    adam = EngineAdam(LEARNER, [parameters], [gradients])
    assert adam.step([0.1], 1.0) == pytest.approx([5e30])
    np.testing.assert_allclose(adam.means[0], [0.06, -0.08, 0], rtol=1e-6)


def test_arrays_are_stepped_as_each_alone_by_its_own_rate():
    rng, learner = RNG(12), EngineLearner(2)
    starts, gradients = ([floats(rng, size) for size in (70_000, 50, 70_000)] for _ in range(2))
    together, alone = ([each.copy() for each in starts] for _ in range(2))
    adam, rates = EngineAdam(learner, together, gradients), [0.1, 0.01, 1.0]
    adams = [EngineAdam(learner, [one], [gradient]) for one, gradient in zip(alone, gradients, strict=True)]
    for _ in range(2):
        norms = [each.step([rate], 0.5)[0] for each, rate in zip(adams, rates, strict=True)]
        assert adam.step(rates, 0.5) == norms
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one, other)


# ---- a whole step ----


def take_steps(learner: EngineLearner, steps: int, widths: tuple[int, ...] = (256, 257, 61)) -> np.ndarray:
    """Steps of PPO on both networks; all that was learned."""
    rng, samples = RNG(11), 50
    policy = network((*widths, 3), samples, learner, 1)
    value = network((*widths, 1), samples, learner, 2)
    head = EngineCategorical(learner)
    nets = (policy, value)
    optimiser = EngineAdam(learner, [net.parameters for net in nets], [net.gradients for net in nets], eps=1e-5)
    inputs, actions = floats(rng, samples, widths[0]), rng.integers(0, 3, samples)
    old, advantages, returns = floats(rng, samples, scale=0.1) - 1.1, floats(rng, samples), floats(rng, samples)
    for _ in range(steps):
        logits, values = forward(nets, [inputs, inputs])
        log_probs, _ = head.forward(logits, actions)
        by_log_probs = clipped_loss(learner, log_probs, old, advantages, 0.2).by_log_probs
        by_logits, by_values = head.backward(by_log_probs, -0.01 / samples), squared_loss(values, returns, 0.5)[1]
        backward(nets, [by_logits, by_values])
        optimiser.step([1e-3, 1e-3], 0.5)
    return np.concatenate([policy.parameters, value.parameters])


def test_steps_have_the_same_bits_with_any_threads_and_instruction_set():
    expected = take_steps(LEARNER, 3)
    for isa in instruction_sets():
        for threads in (1, 2, 3):
            np.testing.assert_array_equal(
                take_steps(EngineLearner(threads, isa), 3), expected, err_msg=f"{isa} {threads}"
            )


def test_steps_are_those_of_autograd_and_adam_in_float64():
    rng, samples, widths = RNG(11), 50, (256, 257, 61)
    twins = [in_torch(network((*widths, 3), samples, seed=1)), in_torch(network((*widths, 1), samples, seed=2))]
    inputs, actions = constant(floats(rng, samples, widths[0])), torch.tensor(rng.integers(0, 3, samples))
    old, advantages = constant(floats(rng, samples, scale=0.1) - 1.1), constant(floats(rng, samples))
    returns = constant(floats(rng, samples))
    standard = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    adams = [torch.optim.Adam(twin.parameters(), lr=1e-3, eps=1e-5) for twin in twins]
    for _ in range(3):
        distribution = torch.distributions.Categorical(logits=twins[0](inputs))
        ratio = (distribution.log_prob(actions) - old).exp()
        surrogate = torch.min(ratio * standard, ratio.clamp(0.8, 1.2) * standard).mean()
        for adam in adams:
            adam.zero_grad()
        errors = (twins[1](inputs)[:, 0] - returns).square().mean()
        (-surrogate - 0.01 * distribution.entropy().mean() + 0.5 * errors).backward()
        for twin, adam in zip(twins, adams, strict=True):
            nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
            adam.step()
    near(take_steps(LEARNER, 3), torch.cat([flat(twin) for twin in twins]))


def test_a_network_may_keep_what_it_has_in_other_arrays_and_take_larger_batches():
    net, twin = network((3, 4, 2), 5), network((3, 4, 2), 60)
    arrays = np.zeros(net.size, np.float32), np.zeros(net.size, np.float32)
    net.use(*arrays)
    net.make_room(60)
    net.make_room(7)  # there is room already
    inputs, by_outputs = floats(RNG(0), 60, 3), floats(RNG(1), 60, 2)
    np.testing.assert_array_equal(net.forward(inputs), twin.forward(inputs))
    net.backward(by_outputs)
    twin.backward(by_outputs)
    np.testing.assert_array_equal(arrays[0], twin.parameters)
    np.testing.assert_array_equal(arrays[1], twin.gradients)
    arrays[0][:] = 0
    assert not net.outputs(inputs).any()


# ---- what cannot be done ----


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: EngineNetwork(LEARNER, (3, 0, 2), 4), r"widths and a batch of at least 1, got \[3, 0, 2\] and 4"),
        (lambda: EngineNetwork(LEARNER, (3,), 4), r"widths and a batch of at least 1, got \[3\] and 4"),
        (lambda: EngineNetwork(LEARNER, (3, 2), 0), "a batch of at least 1"),
        (lambda: EngineNetwork(LEARNER, (3, 2**40), 1), "layers of widths 1 to 16777216, got 1099511627776"),
        (lambda: EngineNetwork(LEARNER, (3, 2), 4, np.zeros(7, np.float32)), r"float32 \[8\], got float32 \[7\]"),
        (lambda: EngineNetwork(LEARNER, (3, 2), 4).forward(np.zeros((5, 3), np.float32)), "1 to 4 samples, got 5"),
        (lambda: EngineNetwork(LEARNER, (3, 2), 4).forward(np.zeros((4, 3))), r"got float64 \[4, 3\]"),
        (lambda: EngineNetwork(LEARNER, (3, 2), 4).forward(np.zeros((3, 4), np.float32).T), "contiguous"),
        (lambda: EngineNetwork(LEARNER, (3, 2), 4).backward(np.zeros((4, 2), np.float32)), "expected a forward pass"),
        (lambda: EngineCategorical(LEARNER).forward(np.zeros((1, 2), np.float32), np.array([2])), "0 to 1, got 2"),
        (lambda: EngineCategorical(LEARNER).forward(np.zeros((1, 2), np.float32), np.array([-1])), "0 to 1, got -1"),
        (
            lambda: EngineCategorical(LEARNER).forward(
                np.zeros((2, 2), np.float32), np.array([0, 0]), np.array([[1, 0], [0, 0]], bool)
            ),
            "mask of sample 1 admits no action",
        ),
        (lambda: EngineLearner(0), "threads must be from 1 to 1024"),
        (lambda: EngineLearner(-1), "threads must be from 1 to 1024"),
        (lambda: EngineLearner(1, "abacus"), "no instruction set abacus"),
        (lambda: orthogonal(0, 3, 1.0, 0), "widths 1 to 16777216, got 0 x 3"),
    ],
)
def test_what_cannot_be_done_is_one_line(wrong, message):
    with pytest.raises(UsageError, match=message):
        wrong()


def test_it_needs_no_torch():
    program = "import sys; import bitrl.plugins.algos.engine_learner; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
