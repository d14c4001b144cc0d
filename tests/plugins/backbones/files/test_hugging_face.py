"""config.json and tensor names against tables written by hand, for the shapes in which published models have them."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitrl.plugins.backbones.files.hugging_face import CheckpointConfig, engine_keys, engine_tensors
from bitrl.plugins.backbones.files.model_file import ModelFileError
from bitrl.plugins.backbones.files.safetensors_file import OpenFile, Stored, Stretch

HERE = Path("config.json")


def stretch(data: bytes) -> Stretch:
    """These bytes as a file's."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return Stretch(OpenFile(Path(file.name)), 0, len(data))


# google/gemma-3-270m as transformers 4 has it, but for its 18 layer types.
GEMMA: dict[str, Any] = {
    "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attn_logit_softcapping": None,
    "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 640,
    "intermediate_size": 2048,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"] + ["sliding_attention"] * 2,
    "max_position_embeddings": 32768, "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 8,
    "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_local_base_freq": 10000.0,
    "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": 512, "use_bidirectional_attention": False,
    "vocab_size": 262144,
}  # fmt: skip
GEMMA_KEYS = {
    "general.architecture": "gemma3", "gemma3.block_count": 8, "gemma3.context_length": 32768,
    "gemma3.embedding_length": 640, "gemma3.feed_forward_length": 2048, "gemma3.attention.head_count": 4,
    "gemma3.attention.head_count_kv": 1, "gemma3.attention.key_length": 256, "gemma3.attention.value_length": 256,
    "gemma3.attention.layer_norm_rms_epsilon": 1e-6, "gemma3.rope.dimension_count": 256, "gemma3.vocab_size": 262144,
    "gemma3.rope.freq_base": 1000000.0, "gemma3.rope.local_freq_base": 10000.0, "gemma3.attention.sliding_window": 512,
    "gemma3.attention.sliding_window_pattern": 6, "gemma3.attention.scale": 1 / 16,
    "gemma3.hidden_activation": "gelu_pytorch_tanh",
}  # fmt: skip
# Qwen/Qwen3-0.6B.
QWEN: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 128, "hidden_act": "silu",
    "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
    "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
    "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
QWEN_KEYS = {
    "general.architecture": "qwen3", "qwen3.block_count": 28, "qwen3.context_length": 40960,
    "qwen3.embedding_length": 1024, "qwen3.feed_forward_length": 3072, "qwen3.attention.head_count": 16,
    "qwen3.attention.head_count_kv": 8, "qwen3.attention.key_length": 128, "qwen3.attention.value_length": 128,
    "qwen3.attention.layer_norm_rms_epsilon": 1e-6, "qwen3.rope.dimension_count": 128, "qwen3.vocab_size": 151936,
    "qwen3.rope.freq_base": 1000000.0, "qwen3.hidden_activation": "silu",
}  # fmt: skip
# microsoft/bitnet-b1.58-2B-4T.
BITNET: dict[str, Any] = {
    "architectures": ["BitNetForCausalLM"], "hidden_act": "relu2", "hidden_size": 2560, "intermediate_size": 6912,
    "max_position_embeddings": 4096, "model_type": "bitnet", "num_attention_heads": 20, "num_hidden_layers": 30,
    "num_key_value_heads": 5, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": True,
    "vocab_size": 128256, "quantization_config": {
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"
    },
}  # fmt: skip


def keys(values: dict[str, Any]) -> dict[str, Any]:
    return engine_keys(CheckpointConfig(values, HERE))


@pytest.mark.parametrize(("values", "expected"), [(GEMMA, GEMMA_KEYS), (QWEN, QWEN_KEYS)], ids=["gemma3", "qwen3"])
def test_keys_of_published_models(values: dict[str, Any], expected: dict[str, Any]) -> None:
    assert keys(values) == expected


def test_keys_of_bitnet() -> None:
    found = keys(BITNET)
    assert found["general.architecture"] == "bitnet-b1.58"
    assert found["bitnet-b1.58.attention.key_length"] == 128
    assert found["bitnet-b1.58.rope.freq_base"] == 500000.0
    assert found["bitnet-b1.58.hidden_activation"] == "relu2"


def test_transformers_5_keeps_rotations_elsewhere() -> None:
    new = {
        "full_attention": {"rope_theta": 1000000.0, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    }
    gemma = {k: v for k, v in GEMMA.items() if k not in ("rope_theta", "rope_local_base_freq")}
    assert keys(gemma | {"rope_parameters": new}) == GEMMA_KEYS
    qwen = {k: v for k, v in QWEN.items() if k != "rope_theta"}
    assert keys(qwen | {"rope_parameters": {"rope_theta": 1000000, "rope_type": "default"}}) == QWEN_KEYS
    with pytest.raises(ModelFileError, match="sliding_attention"):
        keys(gemma | {"rope_parameters": {"full_attention": new["full_attention"]}})


def test_older_gemmas_name_the_pattern_alone() -> None:
    older = {k: v for k, v in GEMMA.items() if k != "layer_types"}
    assert keys(older | {"sliding_window_pattern": 6}) == GEMMA_KEYS
    with pytest.raises(ModelFileError, match="lacks layer_types"):
        keys(older)


@pytest.mark.parametrize(("kinds", "pattern"), [("ssf", 3), ("fff", 1), ("sss", 4), ("sfs", 2), ("ss", None)])
def test_layer_types_that_are_every_nth_are_a_number(kinds: str, pattern: int | None) -> None:
    names = {"s": "sliding_attention", "f": "full_attention"}
    values = GEMMA | {"num_hidden_layers": 3, "layer_types": [names[kind] for kind in kinds]}
    if pattern is None:
        with pytest.raises(ModelFileError, match="layer_types"):
            keys(values)
    else:
        assert keys(values)["gemma3.attention.sliding_window_pattern"] == pattern


@pytest.mark.parametrize("kinds", ["fsf", "sff"])
def test_other_layer_types_are_a_list(kinds: str) -> None:
    names = {"s": "sliding_attention", "f": "full_attention"}
    found = keys(GEMMA | {"num_hidden_layers": 3, "layer_types": [names[kind] for kind in kinds]})
    assert found["gemma3.attention.sliding_window_pattern"] == [kind == "s" for kind in kinds]


@pytest.mark.parametrize(
    ("values", "changes", "message"),
    [
        (GEMMA, {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        (GEMMA, {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (GEMMA, {"rope_scaling": {"rope_type": "ntk", "factor": 8.0}}, "rope_type = ntk.*supported: default, linear"),
        (GEMMA, {"query_pre_attn_scalar": None}, "query_pre_attn_scalar"),
        (GEMMA, {"head_dim": None}, "lacks head_dim"),
        (QWEN, {"head_dim": None}, "lacks head_dim"),
        (QWEN, {"use_sliding_window": True, "max_window_layers": None}, "max_window_layers"),
        (BITNET, {"quantization_config": {"quant_method": "bitnet", "use_rms_norm": True}}, "use_rms_norm"),
        (
            QWEN,
            {"quantization_config": {"quant_method": "bitnet", "use_rms_norm": True, "rms_norm_eps": 1e-5}},
            "rms_norm_eps = 1e-05",
        ),
    ],
)
def test_what_is_not_computed_is_refused_by_name(values: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        keys(values | changes)


ODD: list[Any] = [None, True, -1, 0, 1.5, 1e308, 10**4000, "", "x", "\n", [], [1], [None, {}], {}, {"rope_theta": []}]


@pytest.mark.parametrize("values", [GEMMA, QWEN, BITNET], ids=["gemma3", "qwen3", "bitnet"])
def test_odd_values_are_errors_or_keys_that_the_engine_takes(values: dict[str, Any]) -> None:
    more = ("rope_parameters", "rope_scaling", "layer_types", "quantization_config", "partial_rotary_factor")
    for key in {*values, *more}:
        for odd in ODD:
            try:
                found, problem = keys(values | {key: odd}), ""
            except ModelFileError as error:
                found, problem = {}, str(error)
            assert "\n" not in problem
            assert len(problem) < 300
            assert all(isinstance(value, str) or 0 < value < 1e30 for value in found.values())


PROJECTIONS = {
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "input_layernorm.weight": "attn_norm.weight",
}
INPUT_NORMS = {  # as bitnet.cpp names them
    "self_attn.q_proj.norm.weight": "attn_q_norm_in.weight",
    "self_attn.k_proj.norm.weight": "attn_k_norm_in.weight",
    "self_attn.v_proj.norm.weight": "attn_v_norm_in.weight",
    "self_attn.o_proj.norm.weight": "attn_output_norm_in.weight",
    "mlp.gate_proj.norm.weight": "ffn_gate_norm_in.weight",
    "mlp.up_proj.norm.weight": "ffn_up_norm_in.weight",
    "mlp.down_proj.norm.weight": "ffn_down_norm_in.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
}
NAMES = {
    "bitnet": PROJECTIONS
    | {
        "post_attention_layernorm.weight": "ffn_norm.weight",
        "self_attn.attn_sub_norm.weight": "attn_sub_norm.weight",
        "mlp.ffn_sub_norm.weight": "ffn_sub_norm.weight",
    },
    "qwen3": PROJECTIONS | INPUT_NORMS | {"post_attention_layernorm.weight": "ffn_norm.weight"},
    "gemma3_text": PROJECTIONS
    | INPUT_NORMS
    | {
        "post_attention_layernorm.weight": "post_attention_norm.weight",
        "pre_feedforward_layernorm.weight": "ffn_norm.weight",
        "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
    },
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("prefix", ["model.", ""])
def test_names_of_tensors(kind: str, prefix: str) -> None:
    wanted = {f"{prefix}layers.17.{name}": f"blk.17.{ours}" for name, ours in NAMES[kind].items()}
    wanted |= {
        f"{prefix}embed_tokens.weight": "token_embd.weight",
        f"{prefix}norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    stored = {name: Stored("F32", (4,), stretch(bytes(16))) for name in wanted}
    stored[f"{prefix}rotary_emb.inv_freq"] = Stored("F32", (4,), stretch(bytes(16)))
    config = CheckpointConfig({"model_type": kind, "tie_word_embeddings": False}, HERE)
    assert [tensor.name for tensor in engine_tensors(stored, config, HERE)] == list(wanted.values())
    tied = CheckpointConfig({"model_type": kind, "tie_word_embeddings": True}, HERE)
    assert "output.weight" not in [tensor.name for tensor in engine_tensors(stored, tied, HERE)]


def test_a_scale_may_stand_before_or_behind_its_weights() -> None:
    """Safetensors do not promise an order."""
    name = "model.layers.0.mlp.up_proj.weight"
    weights = Stored("U8", (1, 4), stretch(bytes(4)))
    scale = Stored("F32", (1,), stretch(np.array([0.25], "<f4").tobytes()))
    for linear_class, factor in (("bitlinear", 4.0), ("autobitlinear", 0.25)):
        said = {"quant_method": "bitnet", "linear_class": linear_class}
        config = CheckpointConfig({"model_type": "llama", "quantization_config": said}, HERE)
        for stored in ({name: weights, f"{name}_scale": scale}, {f"{name}_scale": scale, name: weights}):
            (found,) = engine_tensors(stored, config, HERE)
            assert (found.name, found.shape, found.scale) == ("blk.0.ffn_up.weight", (4, 4), factor)


@pytest.mark.parametrize(
    "name", ["score.weight", "model.layers.-1.mlp.up_proj.weight", "model.layers.01.mlp.up_proj.weight", "weight",
             "model.layers.0.mlp.up_proj.bias", "model.layers.0.mlp.experts.0.up_proj.weight",
             "model.model.norm.weight", "layers.0.mlp.ffn_sub_norm.weight",
             "model.layers.99999999.mlp.up_proj.weight", "x\n.weight"]
)  # fmt: skip
def test_other_tensors_are_refused_by_name(name: str) -> None:
    stored = {name: Stored("F32", (4,), stretch(bytes(16)))}
    with pytest.raises(ModelFileError, match="has the tensor") as caught:
        list(engine_tensors(stored, CheckpointConfig({"model_type": "llama"}, HERE), HERE))
    assert "\n" not in str(caught.value)
