"""The estimators: float64 twins in loops, finite differences, properties, and what TRL and verl compute."""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitrl.plugins.algos.estimators import Corrected, Estimator, correct, policy_loss
from bitrl.plugins.algos.group_advantages import group_advantages

CORRECTIONS = ("none", "decoupled", "tis", "mis", "geometric", "k2", "k3", "acr", "mixed", "vespo")
LOW, HIGH = 0.15, 0.25
ROWS, COLUMNS = 6, 8


def made(seed: int = 19) -> tuple[Tensor, ...]:
    """Log-probabilities of current, proximal, behaviour and reference [6, 8], the mask, and advantages [6]; float64."""
    rng = np.random.default_rng(seed)
    proximal = np.log(rng.uniform(0.05, 0.95, (ROWS, COLUMNS)))
    scales = (0.4, 0.2, 0.3)
    behaviour, current, reference = (proximal + rng.normal(0, scale, (ROWS, COLUMNS)) for scale in scales)
    mask = np.arange(COLUMNS) < rng.integers(2, 9, (ROWS, 1))
    advantages = rng.normal(0, 1, ROWS)
    return tuple(map(torch.from_numpy, (current, proximal, behaviour, reference, mask, advantages)))


def loss_of(how: Estimator, arrays: tuple[Tensor, ...], reference: bool = False) -> tuple[float, Tensor]:
    """The loss, and its gradient by the current log-probabilities."""
    current, proximal, behaviour, other, mask, advantages = arrays
    current = current.clone().requires_grad_()
    corrected, _ = correct(proximal, behaviour, mask, advantages, how)
    total, count, _ = policy_loss(current, corrected, advantages, how, other if reference else None)
    (gradient,) = torch.autograd.grad(total / count, current)
    return float(total.detach() / count), gradient


# ---- twins: the formulas, a token at a time, in Python's floats ----

Rows = list[list[float]]


def twin(
    how: Estimator, arrays: tuple[Tensor, ...], reference: bool, frozen: Rows | None = None, current: Rows | None = None
) -> float:
    """The loss. What no gradient flows through is computed from `frozen` log-probabilities of the current policy."""
    given_current, proximal, behaviour, other, mask, advantages = (array.tolist() for array in arrays)
    current = given_current if current is None else current
    frozen = current if frozen is None else frozen
    sequences = [[t for t in range(COLUMNS) if mask[b][t]] for b in range(ROWS)]
    rho = {(b, t): math.exp(proximal[b][t] - behaviour[b][t]) for b in range(ROWS) for t in sequences[b]}
    level = dict(rho)
    if how.level == "sequence":
        level = {(b, t): math.prod(rho[b, i] for i in sequences[b]) for b, t in rho}

    def kept(b: int, t: int) -> bool:
        logs = [math.log(rho[b, i]) for i in sequences[b]]
        mean = sum(logs) / len(logs)
        if how.correction == "mis":
            return how.floor <= level[b, t] <= how.cap
        if how.correction == "geometric":
            return how.floor <= math.prod(rho[b, i] for i in sequences[b]) ** (1 / len(sequences[b])) <= how.cap
        if how.correction == "k2":
            return sum(each**2 for each in logs) / len(logs) / 2 <= how.cap
        if how.correction == "k3":
            return sum(math.exp(each) for each in logs) / len(logs) - mean - 1 <= how.cap
        return True

    remaining = [[t for t in sequences[b] if kept(b, t)] for b in range(ROWS)]
    old = behaviour if how.correction in ("none", "vespo") else proximal
    if how.negative_cap is not None:
        for b in range(ROWS):
            drift = [old[b][t] - frozen[b][t] for t in remaining[b]]
            if drift and advantages[b] < 0 and sum(drift) / len(drift) > how.negative_cap:
                remaining[b] = []
    capped = [min(each, how.cap) for each in level.values()]
    alpha = sum(capped) ** 2 / (len(capped) * sum(each**2 for each in capped))

    terms: list[list[float]] = []
    for b in range(ROWS):
        terms.append([])
        for t in remaining[b]:
            a, p = advantages[b], level[b, t]
            w = {"decoupled": p, "mis": p, "tis": min(p, how.cap), "acr": min(p, how.cap)}.get(how.correction, 1.0)
            if how.correction == "mixed":
                w = (1 - alpha) + alpha * min(p, how.cap)
            upper = 1 + how.clip_high
            if how.correction == "acr":
                # (1 + ε)/r, with the behaviour policy truncated from below at π_prox/C
                upper *= max(1 / p, 1 / how.cap) * p
            logs = [current[b][i] - old[b][i] for i in remaining[b]]
            ratio = math.exp(sum(logs) / len(logs) if how.ratio == "sequence" else current[b][t] - old[b][t])
            bounded = min(max(ratio, 1 - how.clip_low), upper)
            term = -w * min(ratio * a, bounded * a)
            if how.correction == "vespo":
                product = math.exp(sum(frozen[b][i] - behaviour[b][i] for i in remaining[b]))
                k, decay = (2, 3) if a >= 0 else (3, 2)
                term = -(product**k) * math.exp(decay * (1 - product)) * a * current[b][t]
            if reference:
                k1 = current[b][t] - other[b][t]
                k3 = math.exp(-k1) - 1 + k1
                term += how.kl_coef * {"k1": k1, "k2": k1**2 / 2, "k3": k3, "unbiased": w * ratio * k3}[how.kl]
            terms[-1].append(term)
    full = [each for each in terms if each]
    if how.aggregation == "token":
        return sum(map(sum, full)) / sum(map(len, full))
    if how.aggregation == "sequence":
        return sum(sum(each) / len(each) for each in full) / len(full)
    return sum(map(sum, full)) / (len(full) * how.length)


KINDS = [
    Estimator(correction, level, 1.4, 0.8, LOW, HIGH, ratio, cap, aggregation, 10, kl, 0.3)  # type: ignore[arg-type]
    for (correction, level), (ratio, cap, aggregation, kl) in zip(
        itertools.product(CORRECTIONS, ("token", "sequence")),
        itertools.cycle(
            [
                ("token", None, "token", "k3"),
                ("token", None, "sequence", "unbiased"),
                ("sequence", None, "sequence", "k2"),
                ("token", 0.02, "fixed-length", "k1"),
                ("sequence", 0.02, "token", "unbiased"),
                ("token", 0.02, "sequence", "k3"),
                ("token", None, "fixed-length", "unbiased"),
            ]
        ),
        strict=False,
    )
]
"""Each correction at each level, with ratios, aggregations and KL terms in turn."""


def wide(how: Estimator) -> Estimator:
    """With gates that some of made()'s tokens and sequences pass and some do not."""
    if how.correction in ("k2", "k3"):
        return attrs.evolve(how, cap=0.08)
    if how.correction == "mis" and how.level == "sequence":
        return attrs.evolve(how, cap=3.0, floor=0.3)
    return how


@pytest.mark.parametrize("how", KINDS, ids=lambda how: f"{how.correction}-{how.level}")
@pytest.mark.parametrize("reference", [False, True])
def test_losses_are_their_twins_and_gradients_finite_differences(how: Estimator, reference: bool) -> None:
    how = wide(how)
    for seed in (19, 23, 29):
        arrays = made(seed)
        found, gradient = loss_of(how, arrays, reference)
        assert found == pytest.approx(twin(how, arrays, reference), abs=1e-12)
        start, step = arrays[0].tolist(), 1e-6
        for b, t in [(0, 0), (0, 1), (1, 0), (2, 1), (3, 0), (4, 1), (5, 0), (5, 7)]:
            sides = []
            for sign in (1, -1):
                moved = [list(row) for row in start]
                moved[b][t] += sign * step
                sides.append(twin(how, arrays, reference, frozen=start, current=moved))
            assert float(gradient[b, t]) == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-7)


def test_gates_reject_some_and_keep_some() -> None:
    """Or the twins above would agree about nothing."""
    for how in map(wide, KINDS):
        if how.correction in ("mis", "geometric", "k2", "k3"):
            shares = [correct(*made(seed)[1:3], *made(seed)[4:], how)[1]["rejected"] for seed in (19, 23, 29)]  # type: ignore[arg-type]
            assert 0 < sum(shares) / 3 < 1, how


# ---- what TRL and verl compute on made() ----

SEQUENCES = {"aggregation": "sequence"}
UNBIASED = {"kl": "unbiased", "kl_coef": 0.5}
NEAR = {"cap": 1 / 0.9, "floor": 0.9}

TRL = {
    # trl 1.9.0, GRPOTrainer._compute_loss with epsilon 0.15 and epsilon_high 0.25: loss type, and what else was set →
    # the loss, Σ gradient·cos(0, 1, 2, …), and our settings. Its ratios are _generate_and_score_completions's.
    "dapo": (0.3030178328155502, 0.017940696171249465, {"on_policy": True}),
    "grpo": (0.3525732494552954, 0.05635305756458954, {"on_policy": True, **SEQUENCES}),
    "dr_grpo, max_completion_length 10": (
        0.1515089164077751,
        0.008970348085624733,
        {"on_policy": True, "aggregation": "fixed-length", "length": 10},
    ),
    "grpo, importance_sampling_level sequence": (
        0.34390601560162265,
        0.07233375048651826,
        {"on_policy": True, "ratio": "sequence", **SEQUENCES},
    ),
    "dapo, old_per_token_logps of the behaviour": (0.3436220499935778, -0.03923129214825624, {"correction": "none"}),
    "dapo, token_truncate 1.3": (0.2866031726853529, -0.007982985007443415, {"correction": "tis", "cap": 1.3}),
    "grpo, sequence_truncate 1.3": (
        0.26741218016511065,
        0.01396225792089501,
        {"correction": "tis", "cap": 1.3, "level": "sequence", **SEQUENCES},
    ),
    "dapo, beta 0.5": (
        0.3332490235542665,
        0.03728879303779968,
        {"on_policy": True, "reference": True, "kl_coef": 0.5},
    ),
    "dapo, beta 0.5, use_bias_correction_kl": (
        0.33103058098382354,
        0.0329164234015988,
        {"on_policy": True, "reference": True, **UNBIASED},
    ),
    "vespo, old_per_token_logps of the behaviour": (
        -0.06140043662237669,
        0.01155654444797938,
        {"correction": "vespo"},
    ),
}
VERL = {
    # verl at b178a3cd5 (0.8.0.dev): core_algos.compute_policy_loss_vanilla (gspo: _gspo) with clip_ratio_low 0.15 and
    # _high 0.25; weights by rollout_corr_helper.compute_rollout_correction_weights, rejection by
    # compute_rollout_rejection_mask.
    "token-mean": (0.3030178328155502, 0.017940696171249465, {"on_policy": True}),
    "seq-mean-token-mean": (0.3525732483462072, 0.05635305724550454, {"on_policy": True, **SEQUENCES}),
    "gspo": (0.34390601450851266, 0.07233375014051542, {"on_policy": True, "ratio": "sequence", **SEQUENCES}),
    "weights of tokens up to 1.3": (0.2866031726853529, -0.007982985007443415, {"correction": "tis", "cap": 1.3}),
    "weights of sequences up to 1.3": (
        0.26741217931750766,
        0.013962257808819389,
        {"correction": "tis", "cap": 1.3, "level": "sequence", **SEQUENCES},
    ),
    "seq_mean_k1 of 0.9 to 1/0.9": (0.4426502846494969, -0.0033358147366589, {"correction": "geometric", **NEAR}),
    "seq_mean_k1 of 0.9 to 1/0.9, seq-mean-token-mean": (
        0.48684626064917774,
        -0.046303596163302506,
        {"correction": "geometric", **NEAR, **SEQUENCES},
    ),
    "seq_mean_k2 up to 0.07": (0.4648813950708367, -0.07088653412951655, {"correction": "k2", "cap": 0.07}),
    "seq_mean_k3 up to 0.07": (0.4648813950708367, -0.07088653412951655, {"correction": "k3", "cap": 0.07}),
    "token_k1 of 1/1.3 to 1.3, and weights": (
        0.4423917739347358,
        -0.01441994641637042,
        {"correction": "mis", "cap": 1.3, "floor": 1 / 1.3},
    ),
}
STAYS_IN_THE_DENOMINATOR = {
    # TRL again: it masks the same tokens, but divides by all 30.
    "dapo, token_mask 0.7 to 1.3": (
        0.1723482709149516,
        -0.005945692918585408,
        {"correction": "mis", "cap": 1.3, "floor": 0.7},
    ),
    "dapo, sequence_mask 0.3 to 3": (
        0.2179491262482859,
        0.0007595719978234507,
        {"correction": "mis", "cap": 3.0, "floor": 0.3, "level": "sequence"},
    ),
    "dapo, off_policy_mask_threshold 0.03": (
        0.15008834876090613,
        0.0038844186929427216,
        {"on_policy": True, "negative_cap": 0.03},
    ),
}
KL = {
    # verl, kl_penalty_forward with agg_loss, token-mean.
    "k1": (-0.03719186732525389, 0.06280353423207997),
    "k2": (0.05946724479445093, 0.035744459756847126),
    "k3": (0.06046238147743256, 0.03869619373310042),
}


def ours(on_policy: bool = False, reference: bool = False, **settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    """On made(): numerator, denominator and the checksum of the numerator's gradient."""
    current, proximal, behaviour, other, mask, advantages = made()
    how = Estimator(**{"correction": "tis", "clip_low": LOW, "clip_high": HIGH, **settings})
    corrected, _ = correct(proximal, proximal if on_policy else behaviour, mask, advantages, how)
    current.requires_grad_()
    total, count, _ = policy_loss(current, corrected, advantages, how, other if reference else None)
    (gradient,) = torch.autograd.grad(total, current)
    return total.detach(), count, (gradient * torch.arange(48.0).view(ROWS, COLUMNS).cos()).sum()


@pytest.mark.parametrize("name", [*TRL, *VERL])
def test_what_trl_and_verl_compute(name: str) -> None:
    loss, checksum, settings = (TRL | VERL)[name]
    total, count, found = ours(**settings)
    assert (float(total / count), float(found / count)) == pytest.approx((loss, checksum), abs=1e-6)


@pytest.mark.parametrize("name", STAYS_IN_THE_DENOMINATOR)
def test_what_trl_leaves_in_the_denominator_leaves_ours(name: str) -> None:
    loss, checksum, settings = STAYS_IN_THE_DENOMINATOR[name]
    total, count, found = ours(**settings)
    assert (float(total / 30), float(found / 30)) == pytest.approx((loss, checksum), abs=1e-6)
    assert 0 < count < made()[4].sum() == 30


@pytest.mark.parametrize("kl", ["k1", "k2", "unbiased"])
def test_the_mean_gradient_of_the_kl(kl: Literal["k1", "k2", "unbiased"]) -> None:
    """Over all tokens, each as often as it is probable: that of the divergence itself, but of k1 nothing."""
    generator = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    current, reference = logits.log_softmax(0), other.log_softmax(0)
    (exact,) = torch.autograd.grad((current.exp() * (current - reference)).sum(), logits, retain_graph=True)
    how, mask, found = Estimator(kl=kl, kl_coef=1.0), torch.ones(1, 1, dtype=torch.bool), torch.zeros_like(logits)
    for token, probability in enumerate(current.detach().exp()):
        chosen, still = current[token].view(1, 1), current[token].detach().view(1, 1)
        corrected, _ = correct(still, still, mask, torch.zeros(1), how)
        loss, _, _ = policy_loss(chosen, corrected, torch.zeros(1), how, reference[token].view(1, 1))
        found += probability * torch.autograd.grad(loss, logits, retain_graph=True)[0]
    torch.testing.assert_close(found, torch.zeros_like(exact) if kl == "k1" else exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kl", KL)
def test_the_kl_that_verl_computes(kl: str) -> None:
    with_kl, count, moved = ours(on_policy=True, reference=True, kl=kl, kl_coef=1.0)
    without, _, still = ours(on_policy=True)
    found = float((with_kl - without) / count), float((moved - still) / count)
    assert found == pytest.approx(KL[kl], abs=1e-6)


def test_diagnostics_that_verl_computes() -> None:
    """verl's compute_offpolicy_metrics: k3_kl and chi2_token."""
    _, proximal, behaviour, _, mask, advantages = made()
    figures = correct(proximal, behaviour, mask, advantages, Estimator())[1]
    assert figures["kl_behaviour"] == pytest.approx(0.09129168927477013, abs=1e-6)
    assert figures["chi2"] == pytest.approx(0.08339687071586899, abs=1e-6)


def test_advantages_of_groups_that_verl_computes() -> None:
    """verl's compute_grpo_outcome_advantage, with and without the standard deviation."""
    rewards = torch.tensor([[1.0, 0, 0, 1], [0.5, 0.25, 0.25, 0.25], [3, -1, 2, 0]], dtype=torch.float64)
    big, small = 0.8660239037870368, 0.49999600003199973
    normalised = [[big, -big, -big, big], [1.4999880000959993, -small, -small, -small]]
    normalised.append([1.0954445150106609, -1.0954445150106609, 0.5477222575053304, -0.5477222575053304])
    plain = [[0.5, -0.5, -0.5, 0.5], [0.1875, -0.0625, -0.0625, -0.0625], [2.0, -2.0, 1.0, -1.0]]
    for wanted, normalise_std in ((normalised, True), (plain, False)):
        found, informative = group_advantages(rewards, normalise_std)
        assert informative.all()
        torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("normalise_std", [True, False])
def test_groups_of_equal_rewards_have_no_advantages(normalise_std: bool) -> None:
    """0.1 is no binary fraction: the mean of seven is not it exactly."""
    rewards = torch.tensor([[0.1] * 7, [0.1] * 6 + [0.2]])
    advantages, informative = group_advantages(rewards, normalise_std)
    assert informative.tolist() == [False, True]
    assert advantages[0].tolist() == [0.0] * 7
    assert advantages[1, -1] > 0
    advantages, informative = group_advantages(torch.tensor([[1.0], [2.0]]), normalise_std)
    assert (advantages.tolist(), informative.tolist()) == ([[0.0], [0.0]], [False, False])


@pytest.mark.parametrize("normalise_std", [True, False])
@pytest.mark.parametrize("size", [4, 8, 16, 64])
def test_a_reward_that_is_its_groups_mean_has_no_sign(normalise_std: bool, size: int) -> None:
    """Sixths are no binary fractions: in float32 the mean of some groups is off, and would give a side to such rewards.

    All others keep the side and the value that integers say.
    """
    rng, means = np.random.default_rng(size), 0
    for _ in range(300):
        sixths = rng.integers(0, 7, size)
        found, _ = group_advantages(torch.tensor([(sixths / 6).astype(np.float32).tolist()]), normalise_std)
        exact = sixths * size - sixths.sum()
        assert np.sign(found[0].numpy()).tolist() == np.sign(exact).tolist()
        deviations = exact / size / 6
        scale = deviations.std() * math.sqrt(size / (size - 1)) + 1e-6 if normalise_std else 1.0
        np.testing.assert_allclose(found[0], deviations / scale, atol=1e-5)
        means += int((exact == 0).any() and (exact != 0).any())
    assert means


# ---- properties ----

log_ratios = st.lists(st.floats(-3, 3), min_size=6, max_size=6)


def rollout(log_rho: list[float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two sequences of three tokens: proximal, behaviour, a mask of all, and advantages 1, −1."""
    behaviour = torch.full((2, 3), -4.0, dtype=torch.float64)
    proximal = behaviour + torch.tensor(log_rho, dtype=torch.float64).view(2, 3)
    return proximal, behaviour, torch.ones(2, 3, dtype=torch.bool), torch.tensor([1.0, -1.0], dtype=torch.float64)


@given(log_ratios, st.floats(1, 8))
@settings(max_examples=50, deadline=None)
def test_acr_moves_the_upper_end_alone(log_rho: list[float], cap: float) -> None:
    """r ≤ 1; the bound is (1 + ε)/r ≥ 1 + ε above, 1 − ε below, found by moving R far to both sides."""
    proximal, behaviour, mask, _ = rollout(log_rho)
    how = Estimator("acr", cap=cap)
    for sign, far in ((1.0, 10.0), (-1.0, -10.0)):
        advantages = torch.full((2,), sign, dtype=torch.float64)
        corrected, _ = correct(proximal, behaviour, mask, advantages, how)
        rho = (proximal - behaviour).exp()
        assert (corrected.r <= 1).all()
        assert (corrected.r == 1)[rho <= cap].all()
        for b, t in itertools.product(range(2), range(3)):
            alone = torch.zeros_like(mask)
            alone[b, t] = True
            one = Corrected(corrected.anchor, corrected.weight, corrected.r, alone)
            bound = -float(policy_loss(proximal + far, one, advantages, how)[0] / corrected.weight[b, t]) * sign
            upper = (1 + 0.2) * max(1.0, float(rho[b, t]) / cap)
            assert bound == pytest.approx(upper if sign > 0 else 1 - 0.2)


@given(log_ratios, log_ratios, st.sampled_from(["token", "sequence"]))
@settings(max_examples=50, deadline=None)
def test_acr_is_tis_where_nothing_is_truncated(log_rho: list[float], log_r: list[float], level: Any) -> None:
    proximal, behaviour, mask, advantages = rollout(log_rho)
    current = proximal + torch.tensor(log_r).view(2, 3)
    untruncated = (
        float((proximal - behaviour).sum(dim=1).exp().max()) if level == "sequence" else math.exp(max(log_rho))
    )
    for cap, equal in ((untruncated * 1.001, True), (untruncated / 2, None)):
        losses = [
            loss_of(Estimator(c, level, cap), (current, proximal, behaviour, current, mask, advantages))
            for c in ("tis", "acr")
        ]  # type: ignore[arg-type]
        if equal:
            assert losses[0][0] == losses[1][0]
            assert torch.equal(losses[0][1], losses[1][1])
        else:
            assert losses[1][0] <= losses[0][0] + 1e-12, "a higher bound on the objective"


def test_acr_learns_where_tis_is_clipped() -> None:
    """ρ = 4, C = 2, so r = ½ and the bound is 2.4: at R = 2 the gradient is −w·R·A = −4, where TIS has none."""
    behaviour = torch.tensor([[-3.0]], dtype=torch.float64)
    proximal = behaviour + math.log(4)
    arrays = (proximal + math.log(2), proximal, behaviour, proximal, torch.tensor([[True]]), torch.tensor([1.0]))
    assert loss_of(Estimator("acr", cap=2.0), arrays)[1].item() == pytest.approx(-4)
    assert loss_of(Estimator("tis", cap=2.0), arrays)[1].item() == 0


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_all_are_ppo_when_the_proximal_policy_acts(correction: Any, level: Any) -> None:
    """Naive and decoupled among them; VESPO is another loss."""
    current, proximal, _, reference, mask, advantages = made()
    arrays = (current, proximal, proximal, reference, mask, advantages)
    loss, _ = loss_of(Estimator(correction, level), arrays)
    plain = -torch.minimum(
        (current - proximal).exp() * advantages[:, None],
        (current - proximal).exp().clamp(0.8, 1.2) * advantages[:, None],
    )
    if correction != "vespo":
        assert loss == pytest.approx(float(plain[mask].mean()), abs=1e-12)
    figures = correct(proximal, proximal, mask, advantages, Estimator(correction, level))[1]
    assert figures == pytest.approx({**dict.fromkeys(figures, 0.0), "ess": 1.0, "weight_ess": 1.0}, abs=1e-12)


def test_the_naive_ratio_is_clipped_as_a_whole() -> None:
    """ρ = 2, R = 0.75: the naive ratio 1.5 is clipped, R is not."""
    behaviour = torch.tensor([[-3.0]], dtype=torch.float64)
    proximal = behaviour + math.log(2)
    arrays = (proximal + math.log(0.75), proximal, behaviour, proximal, torch.tensor([[True]]), torch.tensor([1.0]))
    assert loss_of(Estimator("none"), arrays)[0] == pytest.approx(-1.2)
    assert loss_of(Estimator("none"), arrays)[1].item() == 0
    assert loss_of(Estimator("decoupled"), arrays)[0] == pytest.approx(-2 * 0.75)


@given(log_ratios)
@settings(max_examples=50, deadline=None)
def test_a_sequences_ratio_is_the_product_of_its_tokens(log_rho: list[float]) -> None:
    proximal, behaviour, mask, advantages = rollout(log_rho)
    mask[1, 2] = False
    of_tokens = correct(proximal, behaviour, mask, advantages, Estimator("decoupled"))[0].weight
    of_sequences = correct(proximal, behaviour, mask, advantages, Estimator("decoupled", "sequence"))[0].weight
    torch.testing.assert_close(of_sequences[0], of_tokens[0].prod().expand(3))
    torch.testing.assert_close(of_sequences[1], of_tokens[1, :2].prod().expand(3))


@pytest.mark.parametrize("aggregation", ["token", "sequence", "fixed-length"])
@pytest.mark.parametrize("correction", ["mis", "geometric", "k2", "k3"])
def test_what_is_rejected_is_as_if_it_had_never_been_sampled(correction: Any, aggregation: Any) -> None:
    """Loss and gradient are those of the batch without it, numerator and denominator."""
    how = wide(Estimator(correction, "sequence", 1.4, 0.8, aggregation=aggregation, length=10))
    arrays = made(23)
    _, proximal, behaviour, _, mask, advantages = arrays
    corrected, figures = correct(proximal, behaviour, mask, advantages, how)
    rows = corrected.kept.any(dim=1)
    assert 0 < rows.sum() < ROWS
    assert figures["rejected"] == pytest.approx(1 - float(corrected.kept.sum() / mask.sum()))
    loss, gradient = loss_of(how, arrays, reference=True)
    alone, by_alone = loss_of(how, tuple(array[rows] for array in arrays), reference=True)
    assert loss == pytest.approx(alone, abs=1e-12)
    torch.testing.assert_close(gradient[rows], by_alone)
    assert not gradient[~rows].any()


def test_qarls_dropped_sequences_leave_the_loss() -> None:
    """Two sequences with A < 0, of which the policy has left one by more than δ; one with A > 0, left as far."""
    proximal = torch.full((3, 2), -1.0, dtype=torch.float64)
    current = proximal + torch.tensor([[-0.6], [-0.4], [-0.6]], dtype=torch.float64)
    mask, advantages = torch.ones(3, 2, dtype=torch.bool), torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    how = Estimator(negative_cap=0.5)
    corrected, _ = correct(proximal, proximal, mask, advantages, how)
    total, count, sums = policy_loss(current, corrected, advantages, how)
    assert (int(count), int(sums["dropped"]), int(sums["tokens"])) == (4, 2, 4)
    # A < 0 and R = exp(−0.4) below 1 − ε = 0.8: clipped there; A > 0: R = exp(−0.6)
    assert float(total) == pytest.approx(2 * 0.8 - 2 * math.exp(-0.6))


@pytest.mark.parametrize("how", KINDS, ids=lambda how: f"{how.correction}-{how.level}")
def test_no_gradient_flows_but_through_the_current_policy(how: Estimator) -> None:
    current, proximal, behaviour, reference, mask, advantages = made()
    inputs = [current, proximal, behaviour]
    for each in inputs:
        each.requires_grad_()
    corrected, _ = correct(proximal, behaviour, mask, advantages, how)
    total, _, sums = policy_loss(current, corrected, advantages, how, reference)
    gradients = torch.autograd.grad(total, inputs, allow_unused=True)
    assert gradients[1:] == (None, None)
    assert not any(each.requires_grad for each in sums.values())


@pytest.mark.parametrize("how", KINDS, ids=lambda how: f"{how.correction}-{how.level}")
def test_microbatches_add_up_to_the_batch(how: Estimator) -> None:
    how = wide(how)
    current, proximal, behaviour, reference, mask, advantages = made(29)
    corrected, _ = correct(proximal, behaviour, mask, advantages, how)

    def parts(*slices: slice) -> tuple[list[Tensor], Tensor]:
        learned = current.clone().requires_grad_()
        figures: dict[str, Tensor] = {}
        for rows in slices:
            total, count, sums = policy_loss(
                learned[rows], corrected.take(rows), advantages[rows], how, reference[rows]
            )
            total.backward()
            for name, value in {"total": total.detach(), "count": count, **sums}.items():
                figures[name] = figures.get(name, torch.zeros(())) + value
        assert learned.grad is not None
        return list(figures.values()), learned.grad

    whole, gradient = parts(slice(None))
    split, by_parts = parts(slice(0, 1), slice(1, 4), slice(4, 6))
    torch.testing.assert_close(
        torch.stack([each.double() for each in split]), torch.stack([each.double() for each in whole])
    )
    torch.testing.assert_close(by_parts, gradient, atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("how", KINDS, ids=lambda how: f"{how.correction}-{how.level}")
@pytest.mark.parametrize("filling", [-math.inf, math.nan, 1e30])
def test_what_is_masked_out_is_never_read(how: Estimator, filling: float) -> None:
    arrays = list(made())
    arrays[5] = arrays[5].unsqueeze(1).repeat(1, COLUMNS)
    wanted, by_wanted = loss_of(how, tuple(arrays), reference=True)
    filled = tuple(each.masked_fill(~arrays[4], filling) if each.is_floating_point() else each for each in arrays)
    found, gradient = loss_of(how, filled, reference=True)
    assert found == wanted
    assert torch.equal(gradient, by_wanted)
    assert not gradient[~arrays[4]].any()


def test_gradients_through_minus_infinity_of_a_softmax_are_finite() -> None:
    """Tokens outside of the kept set have log-probability −inf, in a learner that masks its logits."""
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    outside = torch.zeros(2, 3, 4, dtype=torch.bool)
    outside[0, 2, 1] = True
    current = logits.masked_fill(outside, -math.inf).log_softmax(dim=2)[:, :, 1]
    mask = torch.tensor([[True, True, False], [True, True, True]])
    old = current.detach() - 0.1
    corrected, figures = correct(old, old - 0.1, mask, torch.ones(2), Estimator("tis"))
    policy_loss(current, corrected, torch.ones(2), Estimator("tis"), old)[0].backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert all(map(math.isfinite, figures.values()))


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_extreme_ratios_stay_finite_in_float32_and_are_counted(correction: Any, level: Any) -> None:
    behaviour = torch.tensor([[-500.0, -1.0, -1.0], [-1.0, -1.0, -9.0]])
    proximal = torch.tensor([[-1.0, -600.0, -1.0], [-1.0, -1.0, -1.0]])
    current = torch.tensor([[-400.0, -1.0, -1.0], [-1.0, -30.0, -1.0]]).requires_grad_()
    mask, advantages = torch.ones(2, 3, dtype=torch.bool), torch.tensor([-1.0, 1.0])
    how = Estimator(correction, level, kl="unbiased")
    corrected, figures = correct(proximal, behaviour, mask, advantages, how)
    total, _, sums = policy_loss(current, corrected, advantages, how, proximal)
    total.backward()
    assert current.grad is not None
    assert total.isfinite()
    assert current.grad.isfinite().all()
    assert all(map(math.isfinite, [*figures.values(), *map(float, sums.values())]))
    # Of sequences, 499 and −599 are both clamped before they are added up: to 0.
    assert figures["clamped"] == pytest.approx(2 / 6 if level == "token" else 0)
    assert figures["m2"] == pytest.approx((400 + 400 + 64) / 6)
    if corrected.kept.all():
        assert sums["ratio_clamped"] >= 1


def test_a_batch_of_which_nothing_is_left_has_no_loss() -> None:
    proximal, behaviour, mask, advantages = rollout([3.0] * 6)
    how = Estimator("geometric")
    corrected, figures = correct(proximal, behaviour, mask, advantages, how)
    current = proximal.clone().requires_grad_()
    total, count, _ = policy_loss(current, corrected, advantages, how)
    total.backward()
    assert (float(total.detach()), int(count), figures["rejected"], figures["weight_ess"]) == (0, 0, 1, 0)
    assert current.grad is not None
    assert not current.grad.any()
    assert correct(proximal, behaviour, ~mask, advantages, how)[1]["kl_behaviour"] == 0


def test_mixed_trusts_weights_as_far_as_samples_remain() -> None:
    """ρ = 3, 1 with C = 3: ESS/B = 16/(2·10) = 0.8, so w = 1 + 0.8·(ρ − 1) = 2.6, 1."""
    behaviour = torch.tensor([[-3.0, -3.0]], dtype=torch.float64)
    proximal = behaviour + torch.tensor([[3.0, 1.0]], dtype=torch.float64).log()
    mask = torch.ones(1, 2, dtype=torch.bool)
    weight = correct(proximal, behaviour, mask, torch.ones(1), Estimator("mixed", cap=3.0))[0].weight
    assert weight.flatten().tolist() == pytest.approx([2.6, 1.0])


def test_diagnostics_by_hand() -> None:
    """ρ = 3 and 1 where A > 0, ½ where A < 0, and one token that is masked out."""
    behaviour = torch.full((2, 2), -3.0, dtype=torch.float64)
    proximal = behaviour + torch.tensor([[3.0, 1.0], [0.5, 100.0]], dtype=torch.float64).log()
    mask = torch.tensor([[True, True], [True, False]])
    _, figures = correct(proximal, behaviour, mask, torch.tensor([2.0, -1.0], dtype=torch.float64), Estimator("tis"))
    logs = math.log(3) + math.log(0.5)
    wanted = {
        "kl_behaviour": (4.5 - logs) / 3 - 1,
        "chi2": (9 + 1 + 0.25) / 3 - 1,
        "m2": (math.log(3) ** 2 + math.log(2) ** 2) / 3,
        "sign_skew": 2 - 0.5,
        "ess": 4.5**2 / (3 * 10.25),
        "weight_ess": 3.5**2 / (3 * 5.25),
        "truncated": 1 / 3,
        "rejected": 0.0,
        "clamped": 0.0,
    }
    assert figures == pytest.approx(wanted)
    how = Estimator("mis", cap=2.0, floor=0.6)
    figures = correct(proximal, behaviour, mask, torch.tensor([2.0, -1.0], dtype=torch.float64), how)[1]
    assert figures == pytest.approx({**wanted, "truncated": 0.0, "rejected": 2 / 3, "weight_ess": 1 / 3})


def test_divergences_of_policies_that_hardly_differ_are_not_lost_in_float32() -> None:
    away = torch.linspace(-3e-5, 3e-5, 7)[None]
    zero, mask, advantages = torch.zeros(1, 7), torch.ones(1, 7, dtype=torch.bool), torch.ones(1)
    how = Estimator("tis")
    corrected, diagnostics = correct(away, zero, mask, advantages, how)
    _, _, seen = policy_loss(zero, corrected, advantages, how, away)
    wanted = float((away.double() ** 2 / 2).mean())  # to the second order
    for found in (diagnostics["kl_behaviour"], float(seen["kl"]) / 7, float(seen["approx_kl"]) / 7):
        assert found == pytest.approx(wanted, rel=1e-2)


def test_shares_of_an_update_by_hand() -> None:
    """R = 1.5, 1.1 with A > 0, of which the first is clipped, and 0.5, 2 with A < 0, of which the first is."""
    ratios = torch.tensor([[1.5, 1.1], [0.5, 2.0]], dtype=torch.float64)
    proximal = torch.full((2, 2), -2.0, dtype=torch.float64)
    mask, advantages = torch.ones(2, 2, dtype=torch.bool), torch.tensor([1.0, -1.0], dtype=torch.float64)
    corrected, _ = correct(proximal, proximal, mask, advantages, Estimator())
    sums = policy_loss(proximal + ratios.log(), corrected, advantages, Estimator(), proximal)[2]
    assert (int(sums["tokens"]), int(sums["clip_fraction"])) == (4, 2)
    assert float(sums["approx_kl"]) == pytest.approx(float((ratios - 1 - ratios.log()).sum()))
    assert float(sums["kl"]) == pytest.approx(float((1 / ratios - 1 + ratios.log()).sum()))


# ---- expectations, over all actions of a small softmax ----


def policies() -> tuple[Tensor, ...]:
    """Logits of current (to learn from), and probabilities [5] of proximal, behaviour, reference; advantages."""
    generator = torch.Generator().manual_seed(3)
    logits = [torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(5)]
    return (logits[0].requires_grad_(), *(each.softmax(0) for each in logits[1:4]), logits[4])


def expected(how: Estimator, kl_only: bool) -> tuple[float, Tensor]:
    """Σ_a π_behav(a)·loss(a): each action is a batch of its own. And its gradient by the logits."""
    logits, proximal, behaviour, reference, advantages = policies()
    current, one = logits.log_softmax(0), torch.ones(1, 1, dtype=torch.bool)
    whole = torch.zeros((), dtype=torch.float64)
    for action in range(5):
        advantage = advantages[action : action + 1] * (not kl_only)
        corrected, _ = correct(
            proximal[action].log().view(1, 1), behaviour[action].log().view(1, 1), one, advantage, how
        )
        of_reference = reference[action].log().view(1, 1) if kl_only else None
        whole = (
            whole
            + behaviour[action] * policy_loss(current[action].view(1, 1), corrected, advantage, how, of_reference)[0]
        )
    return float(whole.detach()), torch.autograd.grad(whole, logits)[0]


def test_unclipped_and_untruncated_the_loss_is_unbiased() -> None:
    """E over the behaviour policy is −E_π[A], and the gradients agree, whether decoupled, naive, or TIS and ACR of a
    high C; a low one biases.
    """
    logits, *_, advantages = policies()
    wanted = -(logits.softmax(0) * advantages).sum()
    (gradient,) = torch.autograd.grad(wanted, logits)
    for correction in ("none", "decoupled", "tis", "acr"):
        how = Estimator(correction, cap=1e6, clip_low=1.0, clip_high=1e9)  # type: ignore[arg-type]
        found, by_logits = expected(how, kl_only=False)
        assert found == pytest.approx(float(wanted.detach()))
        torch.testing.assert_close(by_logits, gradient)
    biased, _ = expected(Estimator("tis", cap=1.0, clip_low=1.0, clip_high=1e9), kl_only=False)
    assert abs(biased - float(wanted.detach())) > 0.01


def test_the_unbiased_kl_is_unbiased_in_value_and_gradient() -> None:
    """E of w·R·k3 over the behaviour policy is KL(π_θ‖π_ref), and so is its gradient; of k3 alone it is neither."""
    logits, _, _, reference, _ = policies()
    current = logits.log_softmax(0)
    wanted = (current.exp() * (current - reference.log())).sum()
    (gradient,) = torch.autograd.grad(wanted, logits)
    found, by_logits = expected(Estimator("decoupled", kl="unbiased", kl_coef=1.0), kl_only=True)
    assert found == pytest.approx(float(wanted.detach()))
    torch.testing.assert_close(by_logits, gradient)
    found, by_logits = expected(Estimator("decoupled", kl="k3", kl_coef=1.0), kl_only=True)
    assert abs(found - float(wanted.detach())) > 0.01
    assert (by_logits - gradient).abs().max() > 0.01
