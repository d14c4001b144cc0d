"""GRPO and PPO of a small language model: learning, exact resume, precisions, and what they refuse."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_tasks import ALGORITHMS, ShareOfLetters, begin, saved, tiny_backbone, tiny_file

from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.interfaces import Completion
from bitrl.plugins.algos.completions import (
    MOST_TOKENS,
    apart,
    mask_of,
    microbatches,
    token_logprobs,
    token_logprobs_and_hidden,
)
from bitrl.plugins.algos.language_learner import LanguageLearner
from bitrl.plugins.algos.ppo_lm import Critic, normalised, token_advantages
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.learned_weights import engine_weights

NAMES = pytest.mark.parametrize("name", list(ALGORITHMS))


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_file(tmp_path_factory.mktemp("model") / "floats.gguf")


@pytest.fixture(scope="module")
def ternary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_file(tmp_path_factory.mktemp("model") / "ternary.gguf", None)


def test_advantages_of_tokens_by_hand() -> None:
    """Two completions, of three tokens and of one. gamma = 0.9, lambda = 0.5, so each step back counts 0.45."""
    values = torch.tensor([[0.5, 0.2, 0.4], [0.3, float("nan"), 7.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    found = token_advantages(torch.tensor([1.0, -1.0]), values, mask, 0.9, 0.5)
    # deltas: 0.9 * 0.2 - 0.5 = -0.32; 0.9 * 0.4 - 0.2 = 0.16; 1 - 0.4 = 0.6. And -1 - 0.3.
    torch.testing.assert_close(found, torch.tensor([[-0.1265, 0.43, 0.6], [-1.3, 0.0, 0.0]]))


def test_without_discount_advantages_are_the_reward_less_the_value() -> None:
    generator = torch.Generator().manual_seed(0)
    values, rewards = torch.randn(5, 7, generator=generator), torch.randn(5, generator=generator)
    mask = torch.arange(7) < torch.tensor([7, 1, 3, 5, 2])[:, None]
    found = token_advantages(rewards, values, mask, 1.0, 1.0)
    torch.testing.assert_close(found, (rewards[:, None] - values).where(mask, 0.0))


def test_advantages_are_normalised_over_tokens_alone() -> None:
    mask = torch.tensor([[True, True], [True, False]])
    found = normalised(torch.tensor([[1.0, 2.0], [6.0, 1e9]]), mask)
    wanted = (np.array([1.0, 2.0, 6.0]) - 3) / np.std([1.0, 2.0, 6.0])
    np.testing.assert_allclose(found[mask], wanted, rtol=1e-6)
    assert found[1, 1] == 0


@pytest.mark.parametrize("reward", [0.1, 0.3, 0.7, 123.4])
@pytest.mark.parametrize("rows", [3, 5, 33])
def test_equal_advantages_are_none(reward: float, rows: int) -> None:
    """The first rollout of a critic that knows nothing yet, where all completions score the same, teaches nothing."""
    mask = torch.arange(4) < torch.tensor([4, 2, 3] * (rows // 3) + [1] * (rows % 3))[:, None]
    advantages = token_advantages(torch.full((rows,), reward), torch.zeros(rows, 4), mask, 1.0, 1.0)
    assert normalised(advantages, mask).abs().max() == 0


def test_the_critics_gradient_is_that_of_its_formula_and_of_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(6, 4, generator=generator).requires_grad_()
    targets = torch.randn(6, generator=generator)
    critic = Critic(4)
    assert not critic.values(hidden).any()
    critic.weights.detach().copy_(torch.tensor([0.5, -1.0, 2.0, 0.1, 0.3]))
    exact = hidden.detach().double().numpy()
    exact = exact / np.sqrt((exact**2).mean(axis=1, keepdims=True))
    weights = critic.weights.detach().double().numpy()
    errors = exact @ weights[:4] + weights[4] - targets.double().numpy()
    assert critic.step(hidden, targets, 1e-3) == pytest.approx((errors**2).mean() / 2, rel=1e-5)
    assert critic.weights.grad is not None
    np.testing.assert_allclose(critic.weights.grad[:4], errors @ exact / 6, rtol=1e-4, atol=1e-6)
    assert critic.weights.grad[4] == pytest.approx(errors.mean(), rel=1e-4)
    assert hidden.grad is None


def test_the_critic_learns_what_hidden_states_say() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = 5 * torch.randn(512, 8, generator=generator)
    targets = hidden[:, 2] / hidden.square().mean(dim=1).sqrt() + 0.5
    critic = Critic(8)
    losses = [critic.step(hidden, targets, 1e-2) for _ in range(300)]
    assert losses[-1] < 0.01 * losses[0]


def test_hidden_states_are_those_the_logits_come_from(floats: Path) -> None:
    """The logits of a tied head are the hidden states by the embedding."""
    module = tiny_backbone(floats).language_policy().module()
    given = apart([completion([5, 6], [7, 8, 9]), completion([5], [6])])
    with torch.no_grad():
        logits, hidden = module.completions(*given, hidden=True)
        assert torch.equal(logits, module.completions(*given))
    twin = hidden.double() @ module.token_embd.double().T
    torch.testing.assert_close(logits.double(), twin, rtol=1e-5, atol=1e-6)


def test_hidden_states_stand_where_their_tokens_stand(floats: Path) -> None:
    module = tiny_backbone(floats).language_policy().module()
    made = [completion([5, 6], [7, 8, 9]), completion([5], [6])]
    with torch.no_grad():
        logprobs, states = token_logprobs_and_hidden(module, made, mask_of(made), 0.7)
        alone = module.completions(*apart(made[:1]), hidden=True)[1]
        assert torch.equal(logprobs, token_logprobs(module, made, mask_of(made), 0.7))
    torch.testing.assert_close(states[0], alone.float())
    assert states.shape == (2, 3, 32)
    assert not states[1, 1:].any()


def test_completions_of_one_prompt_are_learned_from_together_and_within_memory() -> None:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 9, rng.integers(1, 40)).tolist() for _ in range(30)]
    made = [completion(prompts[i % 30], rng.integers(0, 9, rng.integers(1, 90)).tolist()) for i in range(240)]
    rows = torch.randperm(240, generator=torch.Generator().manual_seed(0))[:200]
    parts = microbatches(made, rows)
    assert sorted(torch.cat(parts).tolist()) == sorted(rows.tolist())
    for part in parts:
        some = [made[row] for row in part.tolist()]
        read = {each.prompt.tobytes(): len(each.prompt) for each in some}
        assert len(read) * max(read.values()) + mask_of(some).numel() <= MOST_TOKENS
    assert len(parts) <= 1.3 * sum(len(each.tokens) + len(each.prompt) / 8 for each in made) / MOST_TOKENS + 5
    apart_from_others = [{made[row].prompt.tobytes() for row in part.tolist()} for part in parts]
    assert sum(map(len, apart_from_others)) <= 30 + len(parts)  # few groups are cut in two
    assert [len(each) for each in microbatches([completion([1] * 9, [2] * 5000)], torch.tensor([0]))] == [1]


def completion(prompt: list[int], tokens: list[int]) -> Completion:
    return Completion(
        text="",
        tokens=np.array(tokens, np.int32),
        logprobs=np.zeros(len(tokens)),
        prompt=np.array(prompt, np.int32),
        ended=True,
    )


def test_how_far_weights_moved_is_counted_in_codes_of_their_rows() -> None:
    module = torch.nn.Linear(2, 3, bias=False)
    module.weight.detach().copy_(torch.tensor([[1.27, 0.0], [0.0, 0.0], [-2.54, 1.0]]))
    learner = LanguageLearner(module, None)
    before = learner.weights()
    module.weight.detach().add_(0.02)
    assert learner.moved(before) == pytest.approx((2 + 2 + 1 + 1) / 4, rel=1e-4)  # the row of zeros has no codes


@NAMES
def test_the_reward_rises(name: str, floats: Path) -> None:
    algorithm = begin(name, tiny_backbone(floats), learning_rate=3e-2, rollout="int8")
    returns = [algorithm.update()["episode_return"] for _ in range(60)]
    assert np.mean(returns[:5]) < 0.2
    assert np.mean(returns[-5:]) > 0.6
    states = algorithm.task.collector.states
    greedy = algorithm.act(states)
    letters = [each for text in greedy for each in text]
    assert np.mean(["a" <= each <= "z" for each in letters]) > 0.6
    assert list(greedy) == list(algorithm.act(states))


PRECISIONS: dict[str, tuple[bool, str, dict[str, Any], dict[str, Any]]] = {  # ternary file, format, backbone's, own
    "int8 of fp32": (False, "fp32", {}, {"rollout": "int8"}),
    "everything": (
        False, "fp32", {},
        {
            "rollout": "int4", "kl": "unbiased", "kl_coef": 0.1, "top_k": 30, "top_p": 0.9, "temperature": 0.8,
            "uaq_scale": 1.5, "stochastic_rounding": True, "norm_noise": "exponential:5e-2:5e-4", "epochs": 2,
            "minibatch_size": 2, "correction": "mis", "negative_cap": 0.5,
        },
    ),
    "quantised learner": (False, "fp32", {}, {"rollout": "int8", "quantised_learner": True}),
    "adapters": (False, "fp32", {"lora_rank": 4}, {}),
    "ternary": (True, "ternary", {}, {}),
    "adapters on ternary": (True, "ternary", {"lora_rank": 4}, {}),
}  # fmt: skip


@NAMES
@pytest.mark.parametrize("precision", list(PRECISIONS))
def test_it_goes_on_exactly_from_its_state(name: str, precision: str, floats: Path, ternary: Path) -> None:
    """And where the actor computes as the learner does, it samples exactly what the learner would."""
    of_codes, format, backbone, options = PRECISIONS[precision]
    file, options = ternary if of_codes else floats, {"learning_rate": 1e-2, **options}
    whole = begin(name, tiny_backbone(file, format, **backbone), **options)
    metrics = [whole.update(), whole.update()]
    state = saved(whole)
    resumed = begin(name, tiny_backbone(file, format, **backbone), state=state, **options)
    third = whole.update()
    assert resumed.update() == third
    for key, array in whole.state().items():
        np.testing.assert_array_equal(array, resumed.state()[key], err_msg=key)
    metrics.append(third)
    assert any(each.get("update_size", 0.0) > 0 for each in metrics)
    assert all(each.get("steps_discarded", 0) == 0 for each in metrics)
    measured = [each["m2"] for each in metrics if "m2" in each]
    assert measured
    if "rollout" not in options or options.get("quantised_learner"):
        assert max(measured) < 1e-10  # mean square of log-ratios: within 1e-5 each
    else:
        assert max(measured) > 1e-7


@NAMES
@pytest.mark.parametrize("noise", [{"norm_noise": 0.7}, {"stochastic_rounding": True}])
@pytest.mark.parametrize("quantised_learner", [False, True])
def test_noise_is_of_rollouts_alone(name: str, noise: dict[str, Any], quantised_learner: bool, floats: Path) -> None:
    """An agent acts as if it learned without noise, and acting does not change what it learns."""

    def agent(**options: Any) -> Any:
        options |= {"rollout": "int4", "quantised_learner": quantised_learner, "max_tokens": 24}
        return begin(name, tiny_backbone(floats), **options)

    noisy, clean, other = agent(**noise), agent(), agent(**noise)
    states = noisy.task.collector.states
    assert noisy.act(states).tolist() == clean.act(states).tolist()
    for _ in range(2):
        assert noisy.update() == other.update()
        noisy.act(states)
    assert noisy.agent.rollout()[0].rewards.tolist() == other.agent.rollout()[0].rewards.tolist()


def test_a_quantised_learners_file_acts_by_the_rollouts_backbone(floats: Path, tmp_path: Path) -> None:
    """As docs/language-models.md says."""
    options = {"rollout": "int4", "quantised_learner": True, "max_tokens": 24, "learning_rate": 1e-2}
    algorithm = begin("grpo", tiny_backbone(floats), **options)
    algorithm.update()
    states = algorithm.task.collector.states
    algorithm.language_policy().write(tmp_path / "learned.gguf")
    policies = [tiny_backbone(tmp_path / "learned.gguf", format).language_policy() for format in ("int4", "fp32")]
    exact, other = ([each.text for each in it.generate(states.texts, 24, temperature=0.0)] for it in policies)
    assert algorithm.act(states).tolist() == exact
    assert exact != other


def test_noise_is_annealed_and_as_large_as_said(floats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """σ₀·(σ₁/σ₀)^progress, added to every norm; nothing else differs from the learner."""
    given: list[dict[str, np.ndarray]] = []
    replace_all = Engine.replace_all

    def spy(engine: Engine, weights: dict[str, np.ndarray], **settings: Any) -> Any:
        given.append(dict(weights))
        return replace_all(engine, weights, **settings)

    monkeypatch.setattr(Engine, "replace_all", spy)
    algorithm: Any = begin(
        "grpo", tiny_backbone(floats), steps=32, norm_noise="exponential:0.1:0.001", learning_rate=1e-12
    )
    algorithm.update()
    algorithm.update()
    clean = dict(engine_weights(algorithm.agent.learner.module))
    noise: list[list[np.ndarray]] = [[] for _ in given]
    for own, weights in zip(noise, given, strict=True):
        assert set(weights) == set(clean)
        for name, values in weights.items():
            if name.endswith("norm.weight"):
                own.append(values - clean[name])
            else:
                np.testing.assert_allclose(values, clean[name], atol=1e-9)
    np.testing.assert_allclose([np.concatenate(own).std() for own in noise], [0.1, 0.01, 0.001], rtol=0.25)
    assert all(len(own) == 5 for own in noise)


@pytest.mark.parametrize("adapters", [{}, {"lora_rank": 4}])
def test_noise_that_ends_leaves_no_trace(adapters: dict[str, Any], floats: Path) -> None:
    algorithm: Any = begin("grpo", tiny_backbone(floats, **adapters))
    actor, prompts = algorithm.agent.actor, algorithm.task.collector.states.texts
    before = [each.logprobs.tolist() for each in actor.generate(prompts, 6, seed=1)]
    actor.update(norm_noise=0.7, noise_seed=1)
    assert [each.logprobs.tolist() for each in actor.generate(prompts, 6, seed=1)] != before
    actor.update()
    assert [each.logprobs.tolist() for each in actor.generate(prompts, 6, seed=1)] == before


@NAMES
def test_log_probabilities_are_those_of_what_was_kept(name: str, floats: Path) -> None:
    """Without kept sets the actor's probabilities, of fewer tokens, would be larger than the learner's."""
    algorithm: Any = begin(name, tiny_backbone(floats), top_k=5, top_p=0.9)
    _, completions, _ = algorithm.agent.rollout()
    mask = mask_of(completions)
    proximal = algorithm.agent.logprobs(algorithm.agent.learner.module, completions, mask)
    for row, each in enumerate(completions):
        assert each.kept is not None
        assert all(len(kept) <= 5 and token in kept for kept, token in zip(each.kept, each.tokens, strict=True))
        np.testing.assert_allclose(proximal[row, : len(each.tokens)], each.logprobs, atol=1e-5)


def learned_from(algorithm: Any, advantage: float, logprobs_by: float = 0.0) -> dict[str, float]:
    """The metrics of a rollout with one advantage for all, every second completion sampled at other probabilities."""
    agent = algorithm.agent
    _, completions, _ = agent.rollout()
    for each in completions[::2]:
        each.logprobs[:] += logprobs_by
    metrics: dict[str, float] = agent.learn(
        completions, mask_of(completions), torch.full((len(completions),), advantage), len(completions)
    )
    return metrics


@NAMES
def test_log_ratios_beyond_float32_are_counted_apart(name: str, floats: Path) -> None:
    """In the only step of an update R is 1; it is ρ that is clamped."""
    algorithm: Any = begin(name, tiny_backbone(floats), max_tokens=1)
    metrics = learned_from(algorithm, 1.0, logprobs_by=-30.0)
    assert (metrics["clamped"], metrics["ratio_clamped"]) == (0.5, 0)


@NAMES
def test_dropped_tokens_are_a_share_of_those_that_there_were(name: str, floats: Path) -> None:
    """Of two passes the first finds the policy where it was, the second that it has left every completion."""
    algorithm: Any = begin(name, tiny_backbone(floats), epochs=2, negative_cap=1e-6, learning_rate=1e-2, max_tokens=1)
    assert learned_from(algorithm, -1.0)["dropped"] == 0.5


@NAMES
def test_metrics_are_documented(name: str, floats: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "language-models.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = {each for row in rows for each in row.split("`")[1::2]}
    assert set(begin(name, tiny_backbone(floats)).update()) <= named


def update_often(algorithm: Any) -> None:
    for _ in range(10):
        algorithm.update()


@NAMES
@pytest.mark.parametrize("rate", [1e25, 1e38])
def test_an_update_that_is_not_finite_is_thrown_away(
    name: str, rate: float, floats: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    algorithm = begin(name, tiny_backbone(floats), learning_rate=rate)
    before = {key: each for key, each in algorithm.state().items() if key.startswith("blk.")}
    assert algorithm.update()["steps_discarded"] == 1
    assert "not finite, and was thrown away: use a smaller" in capsys.readouterr().err
    for key, array in before.items():
        np.testing.assert_array_equal(array, algorithm.state()[key], err_msg=key)
    with pytest.raises(RunFailed, match=r"3 updates in a row, up to step \d+, .*use a smaller .*learning_rate"):
        update_often(algorithm)


@NAMES
def test_a_learning_rate_that_leaves_nothing_of_a_model_is_said(
    name: str, floats: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(name, tiny_backbone(floats), learning_rate=1e-2).update()
    assert capsys.readouterr().err == ""
    assert begin(name, tiny_backbone(floats), learning_rate=1e3).update()["steps_discarded"] == 0
    assert "times as far as they are large: little of the model is left; use a smaller" in capsys.readouterr().err


@NAMES
@pytest.mark.parametrize("kl", ["k1", "k2", "k3", "unbiased"])
def test_a_kl_that_holds_nothing_is_said(name: str, kl: str, floats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(name, tiny_backbone(floats), kl=kl)
    assert ("does not hold the model near its start" in capsys.readouterr().err) == (kl == "k1")


@NAMES
def test_updates_that_were_thrown_away_are_counted_across_a_resume(name: str, floats: Path) -> None:
    algorithm = begin(name, tiny_backbone(floats), learning_rate=1e38)
    assert [algorithm.update()["steps_discarded"] for _ in range(2)] == [1, 1]
    resumed = begin(name, tiny_backbone(floats), state=saved(algorithm), learning_rate=1e38)
    with pytest.raises(RunFailed, match="3 updates in a row"):
        resumed.update()


@NAMES
def test_a_model_without_an_end_token_is_refused(name: str, tmp_path: Path) -> None:
    path = tiny_file(tmp_path / "endless.gguf", **{"tokenizer.ggml.eos_token_id": None})
    words = r"names no end token .*eos_token_id.*use another model \(.*backbone\.model.*starter-tasks-fp16"
    with pytest.raises(UsageError, match=words):
        begin(name, tiny_backbone(path))


@NAMES
def test_more_tokens_than_the_context_holds_are_refused(name: str, floats: Path) -> None:
    algorithm = begin(name, tiny_backbone(floats), max_tokens=64)
    with pytest.raises(UsageError, match=r"1 tokens and 64 more \(max_tokens\) do not fit the model's context of 64"):
        algorithm.update()


@NAMES
def test_an_episode_that_goes_on_is_refused(name: str, floats: Path) -> None:
    algorithm = begin(name, tiny_backbone(floats), make=lambda: ShareOfLetters(goes_on=True))
    with pytest.raises(RunFailed, match="episodes end with the first completion; this one goes on"):
        algorithm.update()


def test_groups_whose_prompts_differ_are_refused(floats: Path) -> None:
    algorithm = begin("grpo", tiny_backbone(floats), make=lambda: ShareOfLetters(differs=True))
    with pytest.raises(RunFailed, match=r"same seed give different prompts.*self\.np_random alone"):
        algorithm.update()


def test_a_run_that_learns_nothing_says_so_once(floats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Unearned(ShareOfLetters):
        def step(self, action: str) -> Any:
            return super().step(action)[0], 0.0, True, False, {}

    update_often(begin("grpo", tiny_backbone(floats), make=Unearned))
    told = capsys.readouterr().err
    assert told.count("warning") == 1
    assert "step 48: nothing has been learned yet" in told
    assert "the mean reward is 0)" in told
    update_often(begin("grpo", tiny_backbone(floats)))
    assert capsys.readouterr().err == ""


def test_a_group_of_one_is_refused(floats: Path) -> None:
    with pytest.raises(UsageError, match=r"algo\.group_size: expected an integer of at least 2, got 1"):
        begin("grpo", tiny_backbone(floats), group_size=1)


@NAMES
def test_an_unknown_precision_is_refused(name: str, floats: Path) -> None:
    with pytest.raises(UsageError, match=r'algo\.rollout: expected one of "fp32".*got "int9"'):
        begin(name, tiny_backbone(floats), rollout="int9")


@NAMES
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kl_coef": 0.1}, r"algo\.kl_coef: weights nothing without .*algo\.kl.*k3"),
        ({"quantised_learner": True}, r"algo\.quantised_learner: .* name one with .*algo\.rollout"),
        ({"stochastic_rounding": True}, r"algo\.stochastic_rounding: fp32 rounds nothing: leave it out"),
        (
            {"rollout": "int8", "correction": "mis", "correction_floor": 3.0},
            r"algo\.correction_floor: 3 is above algo\.correction_cap, 2: every sample would be rejected",
        ),
    ],
)
def test_settings_that_nothing_would_come_of_are_refused(
    name: str, options: dict[str, Any], words: str, floats: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        begin(name, tiny_backbone(floats), **options)


@NAMES
def test_sampling_that_has_no_probabilities_is_refused(name: str, floats: Path) -> None:
    with pytest.raises(UsageError, match=r"algo\.top_p: expected a number above 0 and at most 1, got 0\.0"):
        begin(name, tiny_backbone(floats), top_p=0.0)
    with pytest.raises(UsageError, match=r"algo\.temperature: expected a number of at least 1e-06, got 1e-40"):
        begin(name, tiny_backbone(floats), temperature=1e-40)


@NAMES
def test_the_lowest_temperature_is_learned_from(name: str, floats: Path) -> None:
    algorithm = begin(name, tiny_backbone(floats), temperature=1e-6)
    assert algorithm.update().get("steps_discarded", 0) == 0


@pytest.mark.parametrize("rollout", ["fp32", "int8", "int4", "ternary"])
def test_invariant_scaling_changes_weights_and_nothing_else(rollout: str, floats: Path) -> None:
    """Exactly, where s is a power of two: actor and learner sample and score as they would without."""
    plain, scaled = (begin("grpo", tiny_backbone(floats), rollout=rollout, uaq_scale=s) for s in (1.0, 4.0))
    found: list[Any] = []
    for algorithm in (plain, scaled):
        agent: Any = algorithm.agent
        _, completions, _ = agent.rollout()
        logprobs = agent.logprobs(agent.learner.module, completions, mask_of(completions))
        found.append(([each.logprobs.tolist() for each in completions], logprobs.tolist()))
    assert found[0] == found[1]
    weights, divided = plain.agent.learner.parameters, scaled.agent.learner.parameters
    factors = {
        name.rpartition(".")[2]: float((divided[name] / weights[name]).nanmean())
        for name in weights
        if name.startswith("blk.")
    }
    matrices = dict.fromkeys(("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"), 0.25)
    assert factors == dict.fromkeys(factors, 1.0) | {"attn_norm": 4.0, "ffn_norm": 4.0} | matrices


@NAMES
def test_invariant_scaling_needs_matrices_that_learn(name: str, floats: Path) -> None:
    with pytest.raises(UsageError, match=r"algo\.uaq_scale: no matrices of this model learn .*leave it at 1"):
        begin(name, tiny_backbone(floats, lora_rank=2), uaq_scale=1.5)


def test_one_environment_is_enough_without_groups(floats: Path) -> None:
    algorithm = begin("ppo-lm", tiny_backbone(floats), 1)
    assert algorithm.update()["episodes"] == 1
    assert algorithm.step == 1


@pytest.mark.parametrize("correction", ["acr", "mis", "mixed"])
def test_a_single_step_needs_no_pass_of_its_own_for_proximal_log_probabilities(floats: Path, correction: str) -> None:
    """Given or found along the way, they lead to the same weights; and to the same diagnostics."""
    settings = {"rollout": "int4", "correction": correction, "learning_rate": 1e-2, "max_tokens": 6}
    found = []
    for given in (True, False):
        agent = begin("grpo", tiny_backbone(floats), **settings).agent  # type: ignore[attr-defined]
        _, completions, _ = agent.rollout()
        mask, advantages = mask_of(completions), torch.linspace(-1, 1, len(completions))
        proximal = agent.logprobs(agent.learner.module, completions, mask) if given else None
        metrics = agent.learn(completions, mask, advantages, len(completions), proximal)
        found.append((agent.learner.weights(), metrics))
    (weights, metrics), (others, also) = found
    assert metrics == pytest.approx(also, rel=1e-4, abs=1e-6)
    assert metrics["m2"] > 1e-6  # int4 does differ
    for one, other in zip(weights, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
