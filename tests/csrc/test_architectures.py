"""Every architecture against transformers' own classes, on small random weights; and what the engine refuses to run."""

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from c_programs import CSRC, compiler
from cffi import FFI
from hugging_face_models import InDouble
from tiny_models import TinyModel

from bitrl import _engine
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.files.model_file import ModelFileError

SHAPE = {
    "vocab_size": 300, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "rms_norm_eps": 1e-5,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": None,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
GEMMA_ROPE = {
    "full_attention": {"rope_type": "default", "rope_theta": 5000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 500.0, "short_factor": [1.0, 1.5, 2.0, 2.5],
    "long_factor": [1.0, 4.0, 9.0, 9.0],
}  # fmt: skip
# transformers' name of the architecture, what its configuration changes of SHAPE
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"rope_theta": 500.0}),
    "llama, wide heads": ("Llama", {"head_dim": 10, "tie_word_embeddings": True, "num_key_value_heads": 1}),
    "qwen3": ("Qwen3", {"head_dim": 16, "rope_theta": 500.0}),
    "qwen3, narrow heads": (
        "Qwen3",
        {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 6, "tie_word_embeddings": True},
    ),
    "gemma3": (  # windows shorter than the texts; blocks 1 and 3 are local, 2 is global
        "Gemma3",
        {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 6, "sliding_window_pattern": 2,
         "rope_parameters": GEMMA_ROPE},
    ),
    "gemma3, wide heads": (
        "Gemma3",
        {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 20, "query_pre_attn_scalar": 20,
         "sliding_window": 9, "layer_types": ["full_attention", "full_attention", "sliding_attention"],
         "rope_parameters": GEMMA_ROPE, "tie_word_embeddings": False},
    ),
}  # fmt: skip
CONFIGURATIONS |= {
    "llama 3.1": ("Llama", {"rope_parameters": LLAMA3}),
    "llama, yarn": ("Llama", {"rope_parameters": YARN}),
    "llama, linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}}),
    "qwen2": ("Qwen2", {"rope_theta": 500.0}),
    "gemma2": (
        "Gemma2",
        {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 6, "rope_theta": 500.0,
         "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "phi3": ("Phi3", {"rope_theta": 500.0, "sliding_window": 7}),
    "phi3, three quarters of a head": (
        "Phi3", {"partial_rotary_factor": 0.75, "num_attention_heads": 3, "num_key_value_heads": 3}
    ),
    "phi3, longrope": ("Phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64}),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 5, "rope_theta": 500.0}),
}  # fmt: skip
BITNETS: dict[str, dict[str, Any]] = {
    "grouped heads": {"rope_theta": 500.0},
    "tied": {"num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True},
}
TEXTS = [[1, 2, 3, 299, 7], [17], list(range(40))]


def make(kind: str, **changes: Any) -> Any:
    """A random model of transformers."""
    torch.manual_seed(0)
    text = "Text" if kind == "Gemma3" else ""
    config = getattr(transformers, f"{kind}{text}Config")(**{**SHAPE, **changes}, attn_implementation="eager")
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():  # the usual 0.02 would leave attention and gates all but linear
            one = 1 if "norm" in name and "Gemma" not in kind else 0  # gemma's norms multiply by 1 + weight
            weight.copy_(one + 0.3 * torch.randn_like(weight))
    return model


def with_bit_linear(model: Any, online: bool, input_norms: bool = False) -> Any:
    """Projections become transformers' ternary layers: they quantise themselves (online), or hold codes and a scale."""
    from transformers.integrations.bitnet import AutoBitLinear  # imports the whole of torch's compiler

    for name, linear in list(model.model.named_modules()):
        if not isinstance(linear, torch.nn.Linear):
            continue
        layer = AutoBitLinear(
            linear.in_features, linear.out_features, bias=False, online_quant=online, use_rms_norm=input_norms,
            rms_norm_eps=model.config.rms_norm_eps,
        )  # fmt: skip
        with torch.no_grad():
            layer.weight.copy_(linear.weight)
            if input_norms:
                layer.rms_norm.weight.copy_(1 + 0.3 * torch.randn(linear.in_features))
            if not online:
                layer.weight_scale.fill_(float(np.float32(linear.weight.abs().mean())))
                layer.weight.copy_((linear.weight / layer.weight_scale).round().clamp(-1, 1))
        model.model.set_submodule(name, layer)
    return model


def tensors_of(model: Any, turned: bool = True, offset: float = 1.0) -> dict[str, np.ndarray]:
    """Weights under their GGUF names, as llama.cpp's converter has them: the halves of each head's rotation in q and k
    of llama interleaved, and `offset` added to gemma's norms."""
    c = model.config
    kind = {"gemma3_text": "gemma3"}.get(c.model_type, c.model_type)
    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == kind)
    names = gguf.get_tensor_name_map(arch, c.num_hidden_layers)
    own = {
        "attn_sub_norm": "attn_sub_norm",
        "ffn_sub_norm": "ffn_sub_norm",
    }  # the package does not know these of BitNet
    out: dict[str, np.ndarray] = {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            if not c.tie_word_embeddings:
                out["output.weight"] = weight.numpy().astype(np.float32)
            continue
        rest = ".bias" if name.endswith(".bias") else ".weight"
        base = name.removesuffix(rest)
        if name.endswith(".rms_norm.weight"):
            base, rest = name.removesuffix(".rms_norm.weight"), "_norm_in.weight"
        if name.endswith(".weight_scale"):
            base, rest = name.removesuffix(".weight_scale"), ".scale"
        last = base.rsplit(".", 1)[1]
        found = f"blk.{base.split('.')[2]}.{own[last]}" if last in own else names.get_name(base)
        assert found, name
        heads = {"q_proj": c.num_attention_heads, "k_proj": c.num_key_value_heads}.get(last)
        if turned and kind in ("llama", "smollm3") and heads and rest == ".weight":
            weight = weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        if kind.startswith("gemma") and last.endswith("norm") and rest == ".weight":
            weight = weight + offset
        out[found + rest] = weight.contiguous().numpy().astype(np.float32)
    return out


def write(model: Any, path: Path, dtype: str = "F32", changes: dict[str, Any] | None = None, **tensors: Any) -> Path:
    """Keys and tensors by the gguf package. `changes` sets keys of the architecture, or removes them (None).

    `tensors` is for tensors_of.
    """
    c, kind = model.config, {"gemma3_text": "gemma3"}.get(model.config.model_type, model.config.model_type)
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_vocab_size(c.vocab_size)
    if kind == "gemma3":
        local = [layer == "sliding_attention" for layer in c.layer_types]
        writer.add_rope_freq_base(c.rope_parameters["full_attention"]["rope_theta"])
        writer.add_rope_freq_base_swa(c.rope_parameters["sliding_attention"]["rope_theta"])
        writer.add_sliding_window(c.sliding_window)
        writer.add_sliding_window_pattern(2 if local == [True, False, True] else local)
        writer.add_attention_scale(c.query_pre_attn_scalar**-0.5)
    else:
        rope = c.rope_parameters
        writer.add_rope_freq_base(rope["rope_theta"])
        writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1)))
        if rope["rope_type"] in ("linear", "yarn"):
            writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
            writer.add_rope_scaling_factor(rope["factor"])
        if rope["rope_type"] == "yarn":
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if rope["rope_type"] == "longrope":  # llama.cpp's converter does not name the type
            ratio = c.max_position_embeddings / c.original_max_position_embeddings
            writer.add_rope_scaling_orig_ctx_len(c.original_max_position_embeddings)
            attention = np.sqrt(1 + np.log(ratio) / np.log(c.original_max_position_embeddings))
            writer.add_rope_scaling_attn_factors(float(attention))
        if getattr(c, "sliding_window", None):
            writer.add_sliding_window(c.sliding_window)
    if kind == "gemma2":
        writer.add_attn_logit_softcapping(c.attn_logit_softcapping)
        writer.add_final_logit_softcapping(c.final_logit_softcapping)
        writer.add_attention_scale(c.query_pre_attn_scalar**-0.5)
    if kind == "bitnet":
        writer.add_string("bitnet.hidden_activation", c.hidden_act)
    for name, value in (changes or {}).items():
        writer.kv_data[0].pop(f"{kind}.{name}", None)
        if value is not None:
            kinds = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING", list: "ARRAY"}
            writer.add_key_value(f"{kind}.{name}", value, gguf.GGUFValueType[kinds[type(value)]])
    named = tensors_of(model, **tensors)
    if getattr(c, "rope_parameters", {}).get("rope_type") == "llama3":  # llama.cpp divides the frequencies by these
        usual = 500.0 ** -(np.arange(0, head_dim, 2) / head_dim)
        named["rope_freqs.weight"] = (usual / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    for length in ("short", "long"):
        if factors := (getattr(c, "rope_parameters", None) or {}).get(f"{length}_factor"):
            named[f"rope_factors_{length}.weight"] = np.array(factors, np.float32)
    for name, weight in named.items():
        number = gguf.GGMLQuantizationType[dtype if weight.ndim == 2 else "F32"]
        writer.add_tensor(name, gguf.quantize(weight, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def hidden_states(model: Any) -> list[np.ndarray]:
    """The residual stream of TEXTS after each block, [tokens, width] each."""
    states: list[list[np.ndarray]] = [[] for _ in model.model.layers]

    def keep(i: int, output: Any) -> None:
        states[i].append((output[0] if isinstance(output, tuple) else output).detach().flatten(0, -2).numpy())

    hooks = [
        layer.register_forward_hook(lambda _, __, output, i=i: keep(i, output))
        for i, layer in enumerate(model.model.layers)
    ]
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        for text in TEXTS:
            model(torch.tensor([text]))
    for hook in hooks:
        hook.remove()
    return [np.concatenate(state) for state in states]


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_state_after_every_block(tmp_path: Path, name: str) -> None:
    kind, changes = CONFIGURATIONS[name]
    model = make(kind, **changes)
    path = write(model, tmp_path / "model.gguf")
    for i, want in enumerate(hidden_states(model)):
        got = Engine(path, layers=i + 1, threads=1).encode(TEXTS, "none")
        assert relative_error(got, want) < 1e-5


def test_positions_beyond_the_first_context_of_longrope_are_not_read(tmp_path: Path) -> None:
    """There its factors are others. Files of Phi have the factors of both and say where the first context ends."""
    kind, changes = CONFIGURATIONS["phi3, longrope"]
    model = make(kind, **changes)
    assert Engine(write(model, tmp_path / "a.gguf"), threads=1).context == 64
    first = "rope.scaling.original_context_length"
    assert f"lacks the key phi3.{first}" in refusal(write(model, tmp_path / "b.gguf", changes={first: None}))
    plain, named = make(kind, rope_theta=500.0), {"rope.scaling.type": "longrope", first: 64}
    assert "lacks the tensor rope_factors_short" in refusal(write(plain, tmp_path / "c.gguf", changes=named))


def test_gemma2_has_its_window_in_files_that_do_not_name_it(tmp_path: Path) -> None:
    """As llama.cpp reads its first ones: 4096 tokens, in every second block."""
    text, model = [[i % 300 for i in range(4200)]], TINY["gemma2"]
    named, other = ({"gemma2.attention.sliding_window": window} for window in (4096, 4097))
    states = [
        Engine(model.write(tmp_path / "m.gguf", changes={"gemma2.context_length": 5000} | keys)).encode(text, "none")
        for keys in ({}, named, other)
    ]
    np.testing.assert_array_equal(states[0], states[1])
    assert not np.array_equal(states[0], states[2])


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"])
def test_in_bf16(tmp_path: Path, name: str) -> None:
    kind, changes = CONFIGURATIONS[name]
    model = make(kind, **changes)
    with torch.no_grad():
        for weight in model.parameters():  # not .bfloat16(), which would round the rotation's frequencies too
            weight.copy_(weight.bfloat16())
    path = write(model, tmp_path / "model.gguf", "BF16")
    want = hidden_states(model)[-1]
    assert Engine(path, threads=1).format == "bf16"
    assert relative_error(Engine(path, "fp32", threads=1).encode(TEXTS, "none"), want) < 1e-5
    # The engine rounds only what enters a product, to 8 bits of mantissa: 2^-9 an activation, through three blocks.
    assert relative_error(Engine(path, threads=1).encode(TEXTS, "none"), want) < 2e-2


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
def test_in_eight_bits_is_near(tmp_path: Path, name: str) -> None:
    kind, changes = CONFIGURATIONS[name]
    model = make(kind, **changes)
    path = write(model, tmp_path / "model.gguf")
    assert relative_error(Engine(path, "int8", threads=1).encode(TEXTS, "none"), hidden_states(model)[-1]) < 0.1


@pytest.mark.parametrize("online", [True, False], ids=["weights quantised at load", "codes and scales"])
@pytest.mark.parametrize("name", BITNETS)
def test_bitnet(tmp_path: Path, name: str, online: bool) -> None:
    with InDouble():
        model = with_bit_linear(make("BitNet", **BITNETS[name]).double(), online).double()
    check_ternary(write(model, tmp_path / "model.gguf"), model)


@pytest.mark.parametrize("name", ["qwen3", "qwen3, narrow heads", "gemma3", "gemma3, wide heads"])
def test_bitnet_embedding_variants(tmp_path: Path, name: str) -> None:
    kind, changes = CONFIGURATIONS[name]
    with InDouble():
        model = with_bit_linear(make(kind, **changes).double(), online=True, input_norms=True).double()
    check_ternary(write(model, tmp_path / "model.gguf"), model)


def check_ternary(path: Path, model: Any) -> None:
    """One activation on another 8-bit code would move its token by 1e-3 or so: every token being within 1e-6 shows that
    codes and integer sums are the same."""
    with InDouble():
        states = hidden_states(model)
    for i, want in enumerate(states):
        got = Engine(path, "ternary", layers=i + 1, threads=1).encode(TEXTS, "none")
        errors = np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)
        assert errors.max() < 1e-6


def test_a_scale_beside_the_matrix(tmp_path: Path) -> None:
    """As mainline llama.cpp's bitnet files have it: the same numbers as with the scale inside."""
    model = with_bit_linear(make("BitNet"), online=False)
    beside = write(model, tmp_path / "beside.gguf")
    for layer in model.modules():
        if hasattr(layer, "weight_scale"):
            layer.weight.data *= layer.weight_scale
            layer.weight_scale.fill_(1)
    inside = write(model, tmp_path / "inside.gguf")
    for format, tolerance in (("ternary", 0), ("fp32", 1e-5), ("int8", 0.05), ("int4", 0.05)):
        got, want = (Engine(path, format).encode(TEXTS, "none") for path in (beside, inside))
        assert relative_error(got, want) <= tolerance


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> tuple[FFI, Any]:
    """The installed engine with a function that takes a GGUF file for one put together from Hugging Face's."""
    folder = tmp_path_factory.mktemp("shim")
    own = folder / "gguf_shim.c"
    own.write_text('#include "gguf.c"\nvoid as_hugging_face(bitrl_file *file) { file->hugging_face = true; }\n')
    flags = ["-std=c11", "-fno-math-errno", "-ffp-contract=off", "-shared", "-fPIC", f"-I{CSRC}"]
    subprocess.run([*compiler(), *flags, own, _engine.__file__, "-o", folder / "shim.so"], check=True)
    ffi = FFI()
    header = (CSRC / "bitrl.h").read_text()
    ffi.cdef(header.split("/* cdef begin */")[1].split("/* cdef end */")[0])
    ffi.cdef("void as_hugging_face(bitrl_file *file);")
    return ffi, ffi.dlopen(str(folder / "shim.so"))


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_weights_as_hugging_face_has_them(tmp_path: Path, shim: tuple[FFI, Any], name: str) -> None:
    """Heads of llama not interleaved, gemma's norms without their 1, but norms before a projection with it."""
    kind, changes = CONFIGURATIONS[name]
    model = with_bit_linear(make(kind, **changes), online=True, input_norms=True)
    want = Engine(write(model, tmp_path / "model.gguf"), "fp32", threads=1).encode(TEXTS, "none")
    path = write(model, tmp_path / "raw.gguf", turned=False, offset=0.0)
    ffi, lib = shim
    file, loaded, session = ffi.new("bitrl_file **"), ffi.new("bitrl_model **"), ffi.new("bitrl_session **")
    error, text = ffi.new("char[256]"), [ffi.new("char[]", word) for word in (b"auto", b"fp32")]
    tokens, lengths = np.concatenate(TEXTS).astype(np.int32), np.array([len(text) for text in TEXTS], np.uint64)
    got = np.zeros_like(want)
    assert lib.bitrl_file_open(str(path).encode(), file, error) == 0
    lib.as_hugging_face(file[0])
    assert (
        lib.bitrl_model_load(
            file[0], ffi.new("bitrl_options *", {"threads": 1, "format": text[1], "isa": text[0]}), loaded, error
        )
        == 0
    )
    assert lib.bitrl_session_open(loaded[0], 1, session, error) == 0
    pointers = (ffi.cast(c, array.ctypes.data) for c, array in (("int32_t *", tokens), ("uint64_t *", lengths)))
    out = ffi.cast("float *", got.ctypes.data)
    assert lib.bitrl_encode(session[0], *pointers, len(TEXTS), lib.BITRL_POOL_NONE, out, error) == 0
    lib.bitrl_session_close(session[0])
    lib.bitrl_model_free(loaded[0])
    lib.bitrl_file_close(file[0])
    assert relative_error(got, want) < 1e-6


def test_the_largest_gemma_scales_its_queries_otherwise(tmp_path: Path) -> None:
    """Gemma 3 27B has 62 blocks, and files of it have no key for that."""
    model = TinyModel(architecture="gemma3", width=16, ffn=16, heads=2, kv_heads=1, head_dim=16, blocks=62)
    got = Engine(model.write(tmp_path / "a.gguf")).encode(TEXTS)
    key = {"gemma3.attention.scale": 8**-0.5}
    np.testing.assert_allclose(got, Engine(model.write(tmp_path / "b.gguf", changes=key)).encode(TEXTS), rtol=1e-3)
    key = {"gemma3.attention.scale": 16**-0.5}
    assert relative_error(got, Engine(model.write(tmp_path / "c.gguf", changes=key)).encode(TEXTS)) > 0.05


def test_the_activation_is_never_guessed(tmp_path: Path) -> None:
    model = TinyModel(width=48, ffn=80, blocks=1)
    prefix = "bitnet-b1.58."
    old = {name: value for name, value in model.keys().items() if name.startswith(prefix)}
    renamed = dict.fromkeys(old) | {name.replace(prefix, "bitnet."): v for name, v in old.items()}
    changes = {**renamed, "general.architecture": "bitnet"}
    path = model.write(tmp_path / "open.gguf", changes=changes)
    with pytest.raises(ModelFileError, match=r"bitnet\.hidden_activation.*-o backbone\.activation=relu2 or silu"):
        Engine(path)
    said = model.write(tmp_path / "said.gguf", changes={**changes, "bitnet.hidden_activation": "relu2"})
    want = Engine(model.write(tmp_path / "known.gguf")).encode(TEXTS)
    np.testing.assert_array_equal(Engine(said).encode(TEXTS), want)
    np.testing.assert_array_equal(Engine(path, activation="relu2").encode(TEXTS), want)
    others = [Engine(path, activation=name).encode(TEXTS) for name in ("silu", "gelu")]
    assert not np.array_equal(others[0], want)
    assert not np.array_equal(others[0], others[1])
    tanh = model.write(tmp_path / "tanh.gguf", changes={**changes, "bitnet.hidden_activation": "gelu_pytorch_tanh"})
    np.testing.assert_array_equal(Engine(tanh).encode(TEXTS), others[1])
    exact = model.write(tmp_path / "exact.gguf", changes={**changes, "bitnet.hidden_activation": "gelu"})
    with pytest.raises(ModelFileError, match="hidden_activation other than"):
        Engine(exact)
    with pytest.raises(ModelFileError, match="activation called tanh"):
        Engine(path, activation="tanh")


TINY = {
    name: TinyModel(architecture=name, width=16, ffn=16, heads=2, kv_heads=1, head_dim=16, blocks=2)
    for name in ("qwen2", "gemma2", "phi3", "smollm3")
} | {
    "llama": TinyModel(architecture="llama", width=16, ffn=16, heads=4, kv_heads=2, head_dim=12, blocks=2),
    "qwen3": TinyModel(
        architecture="qwen3", width=16, ffn=16, heads=2, kv_heads=1, head_dim=16, blocks=2, input_norms=True
    ),
    "gemma3": TinyModel(
        architecture="gemma3", width=16, ffn=16, heads=2, kv_heads=1, head_dim=16, blocks=2, window=5, every=2
    ),
}


def refusal(path: Path) -> str:
    """The engine's message, which is one line."""
    with pytest.raises(ModelFileError) as error:
        Engine(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "key", "value", "words"),
    [
        (
            "llama",
            "rope.scaling.type",
            "ntk",
            r"positions by ntk \(llama\.rope\.scaling\.type\), .* linear, yarn",
        ),
        ("llama", "rope.scaling.type", "yarn", "lacks the key llama.rope.scaling.original_context_length"),
        ("llama", "rope.scaling.factor", 0.0, "rope.scaling.factor = 0; it must be a positive number"),
        ("llama", "attention.key_length", 11, "heads of 11"),
        ("llama", "attention.key_length", 2**31, "key_length = 2147483648; it must be an integer from 1 to 65536"),
        ("llama", "attention.key_length", 65534, "at most 65536 wide"),
        ("llama", "attention.key_length", 0, "key_length = 0"),
        ("llama", "attention.key_length", 8, "values of 12 but keys of 8"),
        ("llama", "attention.value_length", 16, "values of 16 but keys of 12"),
        ("llama", "rope.dimension_count", 6, "rotates 6 of 12"),
        ("llama", "attention.head_count", 3, "3 heads of 12 and 2 key/value heads"),
        ("llama", "attention.scale", 0.0, "attention.scale = 0; it must be a positive number"),
        ("llama", "attention.causal", False, "both directions"),
        ("llama", "expert_count", 8, "has llama.expert_count, which is not supported"),
        ("llama", "attention.clamp_kqv", 8.0, "attention.clamp_kqv"),
        ("llama", "rope.scaling.yarn_attn_factor", 1.5, "has llama.rope.scaling.yarn_attn_factor, which is not"),
        ("llama", "rope.scaling.alpha", 1000.0, "rope.scaling.alpha"),
        ("qwen3", "attention.temperature_scale", 0.1, "attention.temperature_scale"),
        ("llama", "attention.max_alibi_bias", 8.0, "attention.max_alibi_bias"),
        ("gemma3", "attention.shared_kv_layers", 2, "attention.shared_kv_layers"),
        ("llama", "use_parallel_residual", True, "use_parallel_residual"),
        ("llama", "attention.sliding_window", 2**31, "llama.attention.sliding_window = 2147483648"),
        (
            "qwen3",
            "attention.sliding_window",
            64,
            "qwen3.attention.sliding_window but no attention.sliding_window_p",
        ),
        ("smollm3", "rope.layers", ["a"], "smollm3.rope.layers other than a number or 2 booleans"),
        ("gemma2", "attn_logit_softcapping", None, "lacks the key gemma2.attn_logit_softcapping"),
        ("gemma2", "final_logit_softcapping", -1.0, "final_logit_softcapping = -1"),
        ("phi3", "rope.dimension_count", 5, "rotates 5 of 16"),
        ("gemma3", "attn_logit_softcapping", 50.0, "has gemma3.attn_logit_softcapping"),
        ("gemma3", "final_logit_softcapping", 30.0, "has gemma3.final_logit_softcapping"),
        ("gemma3", "attention.sliding_window", 0, "sliding_window = 0; it must be an integer from 1"),
        ("gemma3", "attention.sliding_window", 2**31, "sliding_window = 2147483648"),
        ("gemma3", "attention.sliding_window", "five", "sliding_window = 0"),
        ("gemma3", "attention.sliding_window", None, "lacks the key gemma3.attention.sliding_window"),
        ("gemma3", "attention.sliding_window_pattern", 0, "sliding_window_pattern = 0"),
        ("gemma3", "attention.sliding_window_pattern", ["a", "b"], "other than a number or 2 booleans"),
        ("gemma3", "rope.freq_base_swa", -1.0, "freq_base_swa = -1"),
        ("gemma3", "rope.local_freq_base", float("nan"), "local_freq_base = nan"),
        ("gemma3", "attention.layer_norm_rms_epsilon", None, "lacks the key gemma3.attention.layer_norm_rms_epsilon"),
        ("qwen3", "block_count", None, "lacks the key qwen3.block_count"),
        ("qwen3", "embedding_length", None, "lacks the key qwen3.embedding_length"),
        ("qwen3", "feed_forward_length", None, "lacks the key qwen3.feed_forward_length"),
        ("qwen3", "attention.head_count", None, "lacks the key qwen3.attention.head_count"),
        ("qwen3", "context_length", None, "lacks the key qwen3.context_length"),
        ("qwen3", "attention.head_count", 0, "head_count = 0"),
        ("qwen3", "attention.head_count_kv", 3, "head_count_kv = 3"),
    ],
)
def test_bad_keys(tmp_path: Path, name: str, key: str, value: Any, words: str) -> None:
    path = TINY[name].write(tmp_path / "model.gguf", changes={f"{name}.{key}": value})
    with pytest.raises(ModelFileError, match=words):
        Engine(path)
    refusal(path)


def test_heads_that_do_not_divide_the_width_need_a_key(tmp_path: Path) -> None:
    changes = {"qwen3.attention.head_count": 3, "qwen3.attention.key_length": None, "qwen3.attention.head_count_kv": 1}
    assert "lacks the key qwen3.attention.key_length" in refusal(TINY["qwen3"].write(tmp_path / "a", changes=changes))


def test_keys_that_change_nothing_are_read_over(tmp_path: Path) -> None:
    """Zeros, as converters write them for what a model does not have."""
    model = TINY["gemma3"]
    zeros = {"attn_logit_softcapping": 0.0, "final_logit_softcapping": 0.0, "expert_count": 0}
    changes = {f"gemma3.{name}": value for name, value in zeros.items()}
    changes |= {"gemma3.attention.causal": True, "gemma3.rope.scaling.type": "none", "gemma3.rope.local_freq_base": 1e4}
    got, want = (
        Engine(model.write(tmp_path / name, changes=keys)).encode(TEXTS) for name, keys in (("a", changes), ("b", {}))
    )
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", TINY)
def test_every_missing_or_misshapen_tensor_is_named(tmp_path: Path, name: str) -> None:
    model, path = TINY[name], tmp_path / "model.gguf"
    for tensor in [*model.vectors, *model.ternary]:
        if tensor == "output_norm.weight":
            continue
        vectors, ternary = dict(model.vectors), dict(model.ternary)
        for table in (vectors, ternary):
            table.pop(tensor, None)
        other = dataclasses.replace(model, vectors={}, ternary={})
        other.vectors, other.ternary = vectors, ternary
        assert f"lacks the tensor {tensor}" in refusal(other.write(path))
        if tensor in model.vectors:
            vectors[tensor] = np.ones(len(model.vectors[tensor]) + 1, np.float32)
        else:
            codes, scale = model.ternary[tensor]
            ternary[tensor] = np.vstack([codes, codes])[: 8 * len(codes)], scale
        assert f"has {tensor} in shape" in refusal(other.write(path))


@pytest.mark.parametrize(
    ("name", "tensor", "shape", "words"),
    [
        ("llama", "blk.0.attn_q.bias", (48,), "has the tensor blk.0.attn_q.bias, which is not supported"),
        ("llama", "blk.1.ffn_gate_inp.weight", (8, 16), "blk.1.ffn_gate_inp.weight"),
        ("llama", "blk.1.attn_sub_norm.weight", (24,), "blk.1.attn_sub_norm.weight"),
        ("llama", "blk.1.attn_q_norm.weight", (12,), "blk.1.attn_q_norm.weight"),
        ("llama", "rope_freqs.weight", (5,), "has rope_freqs.weight in shape"),
        ("llama", "rope_factors_short.weight", (6,), "rope_factors_short.weight"),
        ("qwen2", "blk.0.attn_output.bias", (16,), "blk.0.attn_output.bias"),
        ("llama", "blk.attn_q.weight", (6,), "blk.attn_q.weight"),
        ("llama", "blk.0", (6,), "blk.0"),
        ("qwen3", "blk.0.post_ffw_norm.weight", (16,), "post_ffw_norm"),
        ("qwen3", "blk.0.attn_q.scale", (2,), "has blk.0.attn_q.scale in shape"),
        ("qwen3", "output.weight", (7, 16), "has output.weight in shape"),
        ("gemma3", "blk.1.ffn_up_norm_in.weight", (16,), "lacks the tensor blk.0.attn_q_norm_in.weight"),
    ],
)
def test_tensors_that_do_not_belong(tmp_path: Path, name: str, tensor: str, shape: Any, words: str) -> None:
    model = dataclasses.replace(TINY[name], vectors={}, ternary={})
    model.vectors[tensor] = np.ones(shape, np.float32)
    assert words in refusal(model.write(tmp_path / "model.gguf"))


def test_logits_may_be_missing_their_norm(tmp_path: Path) -> None:
    """A file without output_norm can still encode."""
    model = dataclasses.replace(TINY["gemma3"], vectors={}, ternary={})
    want = Engine(model.write(tmp_path / "a")).encode(TEXTS)
    model.vectors.pop("output_norm.weight")
    np.testing.assert_array_equal(Engine(model.write(tmp_path / "b")).encode(TEXTS), want)
