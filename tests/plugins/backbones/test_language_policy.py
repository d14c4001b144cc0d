"""The language model as a policy: log-probabilities of engine and torch, gradient steps, references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hugging_face_models import add_tokenizer, calm_llama, gemma3
from tiny_models import TinyModel

from bitrl.core.errors import UsageError
from bitrl.core.interfaces import GenerativeBackbone, LanguagePolicy
from bitrl.plugins.algos.completions import mask_of, token_logprobs
from bitrl.plugins.backbones import LanguageModelOptions
from bitrl.plugins.backbones.language_model import LanguageModel, language_model, starter_path
from bitrl.plugins.backbones.tools.convert import convert

PROMPTS = ["x=1.5", '{"a": 3', "x=1.5"]
LORA = {"lora_rank": 4, "lora_targets": ("q", "v", "o", "down")}


def made(model: Path | None, format: str, **options: Any) -> LanguageModel:
    given = LanguageModelOptions(model=None if model is None else str(model), threads=1, **options)
    return language_model(given, None, format)


def in_torch(policy: Any, prompt: str, tokens: np.ndarray) -> torch.Tensor:
    """Log-probabilities [m] of a completion by the module."""
    ids = [*policy.model.prompt_ids([prompt])[0], *tokens.tolist()]
    logits = policy.module()(torch.tensor([ids]))[0]
    rows = logits[len(ids) - len(tokens) - 1 : -1].double().log_softmax(dim=-1)  # float32 holds logits, not their sums
    return rows[torch.arange(len(tokens)), torch.tensor(tokens.tolist())]


def gap(policy: Any, completions: list[Any]) -> float:
    """The largest difference between engine and torch, relative where log-probabilities are below -1."""
    found = policy.logprobs(PROMPTS, [each.tokens for each in completions])
    with torch.no_grad():
        ours = [in_torch(policy, prompt, each.tokens) for prompt, each in zip(PROMPTS, completions, strict=True)]
    return max(
        float((np.abs(a - b.numpy()) / np.maximum(1, np.abs(a))).max()) for a, b in zip(found, ours, strict=True)
    )


def step(policy: Any, completions: list[Any], rate: float = 1e-3) -> None:
    """Two steps towards the completions."""
    learn = [p for p in policy.module().parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(learn, lr=rate)
    for _ in range(2):
        optimiser.zero_grad()
        losses = [
            in_torch(policy, prompt, each.tokens).mean() for prompt, each in zip(PROMPTS, completions, strict=True)
        ]
        (-torch.stack(losses).mean()).backward()
        optimiser.step()


@pytest.mark.parametrize("options", [{}, LORA], ids=["all weights", "adapters"])
@pytest.mark.parametrize("format", ["fp32", "ternary", "int8", "int4"])
def test_engine_and_torch_agree_after_a_gradient_step(tmp_path: Path, format: str, options: dict[str, Any]) -> None:
    path = TinyModel(width=48, ffn=80, weights="F32").write(tmp_path / "m.gguf")
    check_learning(made(path, format, **options), 1e-5)


@pytest.mark.parametrize("options", [{}, LORA], ids=["all weights", "adapters"])
@pytest.mark.parametrize(("ternary", "format"), [(True, "ternary"), (False, "fp32")])
def test_the_starter_pair(ternary: bool, format: str, options: dict[str, Any]) -> None:
    check_learning(made(None if ternary else starter_path(ternary=False), format, **options), 1e-5)


@pytest.mark.parametrize("make", [calm_llama, gemma3])
def test_checkpoints_whose_weights_lie_otherwise(tmp_path: Path, make: Any) -> None:
    """Rows of llama's q and k in GGUF; gemma's norms in safetensors, without their 1."""
    make().save_pretrained(tmp_path)
    add_tokenizer(tmp_path)
    path = tmp_path
    if make is calm_llama:
        convert(tmp_path, tmp_path / "m.gguf")
        path = tmp_path / "m.gguf"
    check_learning(made(path, "fp32"), 1e-4)


def check_learning(model: LanguageModel, most: float) -> None:
    policy = model.language_policy()
    assert model.language_policy() is policy
    assert isinstance(model, GenerativeBackbone)
    assert isinstance(policy, LanguagePolicy)
    completions = policy.generate(PROMPTS, 6, seed=3)
    assert gap(policy, completions) < most
    features = model.encode(PROMPTS).copy()
    before = policy.logprobs(PROMPTS, [each.tokens for each in completions])
    step(policy, completions)
    assert gap(policy, completions) > 10 * most  # the engine does not know yet
    np.testing.assert_array_equal(model.encode(PROMPTS), features)
    policy.sync()
    assert policy.version == 1
    assert gap(policy, completions) < most
    after = policy.logprobs(PROMPTS, [each.tokens for each in completions])
    assert sum(map(np.sum, after)) > sum(map(np.sum, before))
    assert not np.array_equal(model.encode(PROMPTS), features)  # no feature of the old weights was kept
    again = policy.generate(PROMPTS, 6, seed=3)
    for one, other in zip(policy.logprobs(PROMPTS, [each.tokens for each in again]), again, strict=True):
        np.testing.assert_array_equal(one, other.logprobs)


@pytest.mark.parametrize("format", ["ternary", "bf16", "int8"])
def test_logprobs_are_what_generate_reported_to_the_bit(tmp_path: Path, format: str) -> None:
    path = TinyModel(width=48, ffn=80).write(tmp_path / "m.gguf")
    policy = made(path, format).language_policy()
    for seed in range(5):
        completions = policy.generate(PROMPTS, 9, seed=seed)
        found = policy.logprobs(PROMPTS, [each.tokens for each in completions])
        for one, other in zip(found, completions, strict=True):
            np.testing.assert_array_equal(one, other.logprobs)
    heated = policy.generate(PROMPTS, 9, seed=1, temperature=0.7)
    found = policy.logprobs(PROMPTS, [each.tokens for each in heated], temperature=0.7)
    for one, other in zip(found, heated, strict=True):
        np.testing.assert_allclose(one, other.logprobs, rtol=0, atol=1e-12)
    ragged = [each.tokens[:length] for each, length in zip(completions, (9, 0, 4), strict=True)]
    for one, other in zip(policy.logprobs(PROMPTS, ragged), completions, strict=True):
        np.testing.assert_array_equal(one, other.logprobs[: len(one)])


def test_a_completion_ends_with_the_end_token_which_is_not_in_its_text(tmp_path: Path) -> None:
    model = TinyModel(width=48, ffn=80)
    first = made(model.write(tmp_path / "a.gguf"), "ternary").language_policy().generate(PROMPTS, 8, seed=1)[0]
    end = int(first.tokens[3])
    changes = {"tokenizer.ggml.eos_token_id": end}
    policy = made(model.write(tmp_path / "b.gguf", changes=changes), "ternary").language_policy()
    stopped = policy.generate(PROMPTS, 8, seed=1)[0]
    where = first.tokens.tolist().index(end)
    assert stopped.tokens.tolist() == first.tokens.tolist()[: where + 1]
    assert stopped.text == policy.model.tokenizer.decode(stopped.tokens.tolist()[:-1])


@pytest.mark.parametrize("options", [{}, LORA], ids=["all weights", "adapters"])
def test_a_reference_stays_as_the_model_was(tmp_path: Path, options: dict[str, Any]) -> None:
    path = TinyModel(width=48, ffn=80, weights="F32").write(tmp_path / "m.gguf")
    policy = made(path, "fp32", **options).language_policy()
    completions = policy.generate(PROMPTS, 5)
    tokens = [each.tokens for each in completions]
    step(policy, completions)
    policy.sync()
    then = policy.logprobs(PROMPTS, tokens)
    reference = policy.reference()
    step(policy, completions)
    policy.sync()
    assert not np.array_equal(policy.logprobs(PROMPTS, tokens)[0], then[0])
    for one, other in zip(reference.logprobs(PROMPTS, tokens), then, strict=True):
        np.testing.assert_array_equal(one, other)
    assert gap(reference, completions) < 1e-5
    assert not any(parameter.requires_grad for parameter in reference.module().parameters())
    with pytest.raises(UsageError, match="frozen copy"):
        reference.sync()


def test_names_of_parameters(tmp_path: Path) -> None:
    path = TinyModel(width=48, ffn=80, blocks=1).write(tmp_path / "m.gguf")
    whole = dict(made(path, "ternary").language_policy().module().named_parameters())
    assert {"token_embd", "output_norm", "blk.0.attn_q", "blk.0.attn_sub_norm"} <= set(whole)
    adapters = dict(made(path, "ternary", lora_rank=2).language_policy().module().named_parameters())
    assert set(adapters) == {f"blk.0.adapters.attn_{name}.{part}" for name in "qv" for part in ("down", "up")}


@pytest.mark.parametrize(
    ("prompts", "tokens", "settings", "message"),
    [
        ([""], [[1]], {}, "a prompt has no tokens"),
        (["a" * 600], [[1]], {}, "but the model reads at most 512: give shorter prompts or name another model"),
        (["a"], [[300]], {}, "outside the vocabulary"),
        (["a"], [[1] * 600], {}, "do not fit the model's context of 512"),
        (["a"], [[1]], {"temperature": 0.0}, "temperature: expected above 0, got 0"),
    ],
)
def test_what_has_no_probability(tmp_path: Path, prompts: Any, tokens: Any, settings: Any, message: str) -> None:
    policy = made(TinyModel(width=48, ffn=80).write(tmp_path / "m.gguf"), "ternary").language_policy()
    with pytest.raises(UsageError, match=message):
        policy.logprobs(prompts, [np.array(each) for each in tokens], **settings)


def test_a_model_without_a_head_does_not_generate(tmp_path: Path) -> None:
    """The engine would take the embedding for its head, although the file says that it is none."""
    model = calm_llama(tie_word_embeddings=False)
    model.model.save_pretrained(tmp_path)
    add_tokenizer(tmp_path)
    backbone = made(tmp_path, "fp32")
    assert np.isfinite(backbone.encode(["the thin moth"])).all()
    with pytest.raises(UsageError, match=r"cannot generate: it has no head \(lm_head\.weight\)"):
        backbone.language_policy()


def test_more_likeliest_tokens_than_there_are_are_all() -> None:
    engine = made(None, "ternary").engine
    (some,), (every,) = (engine.generate([[1]], 4, top_k=k, seed=1) for k in (engine.vocabulary, 1 << 70))
    assert some.tokens.tolist() == every.tokens.tolist()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"stop": [1 << 20]}, "stop: token 1048576 is outside"),
        ({"stop": [-1]}, "stop: token -1 is outside"),
        ({"top_k": -1}, "top_k: expected 0 or more, got -1"),
        ({"seed": 1 << 70}, r"seed: expected an integer from -2\^63 to 2\^63 - 1"),
    ],
)
def test_settings_of_sampling_that_are_out_of_range_are_refused(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        made(None, "ternary").engine.generate([[1]], 2, **given)


@pytest.mark.parametrize("format", ["ternary", "int8", "int4", "bf16", "fp32"])
def test_engine_and_torch_agree_over_many_tokens(format: str) -> None:
    """Sums in another order, or an activation at a tie that is rounded to the other side, would move a few of them."""
    policy = made(None if format == "ternary" else starter_path(ternary=False), format).language_policy()
    prompts = [f"The {word} of {number} is" for number, word in enumerate(["cat", "sum", "word", "house"] * 3)]
    completions = policy.generate(prompts, 100, seed=1)
    mask = mask_of(completions)
    with torch.no_grad():
        found = token_logprobs(policy.module(), completions, mask)
    for row, each in zip(found, completions, strict=True):
        np.testing.assert_allclose(row[: len(each.tokens)].numpy(), each.logprobs, rtol=0, atol=5e-6)
