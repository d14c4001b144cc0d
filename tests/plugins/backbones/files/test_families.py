"""Small random checkpoints of every family, as transformers saves them: states, logits and greedy tokens are its own.

And the same as GGUF files, which `convert` writes of them.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from hugging_face_models import SHAPE, TEXTS, relative_error, states

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.engine.generation import Sequences
from bitrl.plugins.backbones.files.model_file import ModelFileError
from bitrl.plugins.backbones.tools.convert import convert

FIRST = {"rope_theta": 500.0, "original_max_position_embeddings": 32}
LLAMA3 = FIRST | {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = FIRST | {"rope_type": "yarn", "factor": 4.0}
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 8.0}
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 500.0, "short_factor": [1.0, 1.5, 2.0], "long_factor": [1.0, 4.0, 9.0],
}  # fmt: skip
S, F = "sliding_attention", "full_attention"
# name: transformers' class, what its configuration changes of SHAPE
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 3.1": ("Llama", {"rope_parameters": LLAMA3}),
    "llama, yarn": ("Llama", {"rope_parameters": YARN | {"beta_fast": 8.0, "attention_factor": 1.25}}),
    "llama, dynamic": ("Llama", {"rope_parameters": LINEAR | {"rope_type": "dynamic"}}),
    "mistral": ("Mistral", {"sliding_window": 5, "num_key_value_heads": 3}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3 with a window": (
        "Qwen3", {"head_dim": 12, "use_sliding_window": True, "sliding_window": 4, "layer_types": [F, S, F]}
    ),
    "gemma 2": (
        "Gemma2",
        {"head_dim": 12, "query_pre_attn_scalar": 20, "sliding_window": 5, "attn_logit_softcapping": 2.0,
         "final_logit_softcapping": 3.0},
    ),
    "gemma 3": (
        "Gemma3Text",
        {"head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 5, "layer_types": [F, S, S],
         "rope_parameters": {F: LINEAR, S: {"rope_type": "default", "rope_theta": 50.0}}},
    ),
    "phi 3": ("Phi3", {"sliding_window": 6}),
    "phi 4 mini": (
        "Phi3",
        {"rope_parameters": LONGROPE | {"partial_rotary_factor": 0.75}, "original_max_position_embeddings": 64,
         "tie_word_embeddings": True},
    ),
    "smollm3": ("SmolLM3", {"no_rope_layers": [1, 0, 1], "tie_word_embeddings": True}),
    "falcon3": ("Llama", {"head_dim": 16, "num_key_value_heads": 2}),
}  # fmt: skip


@cache
def model(name: str) -> Any:
    kind, changes = FAMILIES[name]
    torch.manual_seed(0)
    usual = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    config = getattr(transformers, f"{kind}Config")(**{**SHAPE, **usual, **changes})
    made = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for weight_name, weight in made.named_parameters():
            one = 1 if "norm" in weight_name and "Gemma" not in kind else 0
            weight.copy_(one + 0.2 * torch.randn_like(weight))
    return made


def logits(made: Any, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(made(torch.tensor([tokens])).logits[0].float())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_checkpoint_and_its_gguf_file_are_the_model(tmp_path: Path, name: str) -> None:
    made = model(name)
    made.save_pretrained(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "m.gguf")
    text = TEXTS[0]
    want, wanted_logits = states(made, text), logits(made, text)
    for path in (tmp_path / "hf", tmp_path / "m.gguf"):
        engine = Engine(path, threads=1)
        assert engine.format == "fp32"
        for got, state in zip(engine.encode_blocks([text]), want, strict=True):
            assert relative_error(got, state) < 1e-5
        _, last = Sequences(engine).read([text], 1)
        assert relative_error(last[0], wanted_logits[-1]) < 1e-5
    (found,) = engine.generate([text[:4]], 32, temperature=0.0)
    said = found.tokens.tolist()
    assert logits(made, text[:4] + said)[3:-1].argmax(1).tolist() == said  # each the likeliest after those before it
    before = engine.encode([text], "none")
    for weights in engine.file.tensors():  # the file's own weights in their place change nothing
        if "rope" not in weights.name:
            engine.replace(weights.name, engine.file.weights(weights.name))
    np.testing.assert_array_equal(engine.encode([text], "none"), before)


SCALED = {"rope_type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    ("name", "changes", "absent"),
    [
        # Each class reads its own key of the activation.
        ("gemma 2", {"hidden_act": "silu"}, ()),
        ("gemma 3", {"hidden_act": "gelu"}, ()),
        ("llama 3.1", {"hidden_activation": "gelu_pytorch_tanh"}, ()),
        ("gemma 2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}, ()),
        ("gemma 2", {"sliding_window_pattern": 3}, ("layer_types",)),
        ("phi 3", {"layer_types": [F, F, F]}, ()),
        # rope_scaling wins, whatever rope_parameters says.
        ("qwen2", {"rope_scaling": SCALED, "rope_theta": 90.0}, ()),
        ("gemma 3", {"rope_scaling": SCALED}, ()),
    ],
    ids=str,
)
def test_settings_are_read_as_transformers_reads_them(
    tmp_path: Path, name: str, changes: dict[str, Any], absent: tuple[str, ...]
) -> None:
    model(name).save_pretrained(tmp_path / "hf")
    said = json.loads((tmp_path / "hf/config.json").read_text()) | changes
    (tmp_path / "hf/config.json").write_text(json.dumps({key: said[key] for key in said if key not in absent}))
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", attn_implementation="eager").eval()
    text = TEXTS[0]
    convert(tmp_path / "hf", tmp_path / "m.gguf")
    for path in (tmp_path / "hf", tmp_path / "m.gguf"):
        engine = Engine(path, threads=1)
        assert relative_error(engine.encode([text], "none"), states(read, text)[-1]) < 1e-5
        _, last = Sequences(engine).read([text], 1)
        assert relative_error(last[0], logits(read, text)[-1]) < 1e-5


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("gemma 2", "attn_logit_softcapping"),
        ("gemma 2", "final_logit_softcapping"),
        ("mistral", "sliding_window"),
        ("qwen2", "sliding_window"),
        ("phi 4 mini", "original_max_position_embeddings"),
    ],
)
def test_what_transformers_would_fill_in_is_not_guessed(tmp_path: Path, name: str, key: str) -> None:
    """It has values of its own for these where they are absent, other ones than none."""
    model(name).save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    del said[key]
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(ModelFileError, match=f"lacks {key}, and bitrl does not guess it"):
        Engine(tmp_path, threads=1)


def test_an_embedding_is_no_head_unless_the_class_ties_them(tmp_path: Path) -> None:
    for name, tied in (("qwen2", False), ("gemma 3", True)):
        model(name).save_pretrained(tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        del config["tie_word_embeddings"]
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        weights = safetensors.torch.load_file(tmp_path / name / "model.safetensors")
        weights.pop("lm_head.weight", None)
        safetensors.torch.save_file(weights, tmp_path / name / "model.safetensors")
        engine = Engine(tmp_path / name, threads=1)
        if tied:
            assert engine.generate([[1]], 1)
        else:
            with pytest.raises(UsageError, match="has no head"):
                engine.generate([[1]], 1)


def test_the_language_model_of_a_multimodal_gemma_is_read(tmp_path: Path) -> None:
    """With what Google's configuration leaves out, and the names of tensors before and after transformers 4.52."""
    made = model("gemma 3")
    weights = {name: weight for name, weight in made.state_dict().items() if name != "lm_head.weight"}
    inner = json.loads(made.config.to_json_string())
    inner["rope_scaling"] = {"rope_type": "linear", "factor": 8.0}
    inner |= {"rope_theta": 500.0, "rope_local_base_freq": 50.0}
    usual = ("rope_parameters", "hidden_activation", "rms_norm_eps", "tie_word_embeddings", "architectures")
    for name in usual:
        inner.pop(name, None)
    inner["rms_norm_eps"] = 1e-5  # the small model's own
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": inner}
    for prefix in ("language_model.model.", "model.language_model."):
        folder = tmp_path / prefix
        folder.mkdir()
        named = {name.replace("model.", prefix, 1): weight.clone() for name, weight in weights.items()}
        named |= {"vision_tower.x.weight": torch.ones(3, 3), "multi_modal_projector.y": torch.ones(3)}
        safetensors.torch.save_file(named, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config))
        engine = Engine(folder, threads=1)
        assert relative_error(engine.encode([TEXTS[0]], "none"), states(made, TEXTS[0])[-1]) < 1e-5


def test_positions_beyond_the_first_context_of_longrope_are_not_read(tmp_path: Path) -> None:
    """There its factors are others, for all positions."""
    model("phi 4 mini").save_pretrained(tmp_path)
    assert Engine(tmp_path, threads=1).context == 64


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama 3.1", {"rope_parameters": LLAMA3 | {"low_freq_factor": None}}, "lacks low_freq_factor"),
        (
            "llama 3.1",
            {"rope_parameters": LLAMA3 | {"rope_type": "longrope"}},
            "= longrope.*of Phi-3, longrope",
        ),
        ("llama 3.1", {"rope_parameters": YARN | {"truncate": False}}, "yarn with truncate = False"),
        (
            "llama 3.1",
            {"rope_parameters": YARN | {"beta_fast": 1.0, "beta_slow": 8.0}},
            "beta_fast = 1.0 below beta_slow",
        ),
        ("qwen2", {"is_causal": False}, r"both directions \(is_causal\)"),
        ("llama 3.1", {"rope_parameters": YARN | {"factor": -1.0}}, "factor = -1.0; expected a positive number"),
        ("llama 3.1", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ("phi 4 mini", {"rope_parameters": LONGROPE | {"short_factor": [1.0]}}, "short_factor other than 4 positive"),
        ("smollm3", {"no_rope_layers": [1, 2, 1]}, "no_rope_layers other than 0 or 1"),
        ("qwen2", {"layer_types": [F, S, "chunked_attention"]}, "layer_types other than full_attention and sliding"),
        ("mistral", {"attention_bias": True}, "attention_bias"),
        ("phi 3", {"intermediate_size": 81}, r"gate_up_proj.*expected 162 rows of floats"),
        ("mistral", {"model_type": "mixtral"}, "model_type = mixtral.*supported: bitnet, llama, mistral, qwen2"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_refused_by_name(
    tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    model(name).save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(said | changes))
    with pytest.raises(ModelFileError, match=message) as caught:
        Engine(tmp_path, threads=1)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
