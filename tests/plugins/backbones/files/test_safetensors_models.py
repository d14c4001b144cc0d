"""Checkpoints that transformers saved, in the engine: hidden states after every block against transformers' own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from hugging_face_models import (
    TEXTS,
    add_tokenizer,
    bitnet,
    gemma3,
    llama,
    packed,
    qwen3,
    relative_error,
    save_rounded,
    states,
)

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones import LanguageModelOptions
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.engine.generation import Sequences
from bitrl.plugins.backbones.files.model_file import ModelFileError
from bitrl.plugins.backbones.language_model import LanguageModel
from bitrl.plugins.backbones.tools.convert import convert

MODELS = {"llama": llama, "qwen3": qwen3, "gemma3": gemma3}


def change(folder: Path, **changes: Any) -> None:
    """Changes keys of config.json; None removes one."""
    said = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in said.items() if v is not None}))


def check(folder: Path, model: Any, most: float, format: str | None = None, **settings: Any) -> None:
    for tokens in TEXTS:
        for block, want in enumerate(states(model, tokens)):
            got = Engine(folder, format, layers=block + 1, **settings).encode([tokens], "none")
            assert relative_error(got, want) < most, f"block {block}"


@pytest.mark.parametrize("name", MODELS)
def test_float32(tmp_path: Path, name: str) -> None:
    model = MODELS[name]()
    model.save_pretrained(tmp_path)
    assert Engine(tmp_path).format == "fp32"
    check(tmp_path, model, 1e-4)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    """Against transformers in float32 on the saved weights: what bf16 activations cost is the engine's own.

    Weights of float16 files are rounded to bf16, too, which has three bits less: half as much again.
    """
    model = save_rounded(MODELS[name](), tmp_path, dtype)
    assert Engine(tmp_path).format == "bf16"
    check(tmp_path, model, 2e-2 if dtype == torch.bfloat16 else 3e-2)
    check(tmp_path, model, 1e-4, "fp32")


@pytest.mark.parametrize("name", MODELS)
def test_shards_and_a_file_without_the_models_prefix_are_the_same_model(tmp_path: Path, name: str) -> None:
    model = MODELS[name]()
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    model.model.save_pretrained(tmp_path / "bare")  # no "model." before names, no head
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 5
    want = Engine(tmp_path / "one").encode(TEXTS)
    for path in ("many", "bare", "one/model.safetensors", "many/model.safetensors.index.json"):
        np.testing.assert_array_equal(Engine(tmp_path / path).encode(TEXTS), want)


@pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_bitnet(tmp_path: Path, linear_class: str, dtype: torch.dtype) -> None:
    model = packed(bitnet(), tmp_path, linear_class, dtype)
    engine = Engine(tmp_path)
    assert engine.format == "ternary"
    assert {t.type for t in engine.tensors if t.name.endswith("attn_q.weight")} == {"HF_PACKED"}
    check(tmp_path, model, 1e-3)


def test_packed_llama(tmp_path: Path) -> None:
    """Llama with ternary layers and no sub-norms, as published with bitlinear."""
    check(tmp_path, packed(llama(), tmp_path, "bitlinear"), 1e-3)


def test_the_two_meanings_of_the_scale_are_not_guessed(tmp_path: Path) -> None:
    packed(bitnet(), tmp_path, "autobitlinear")
    want = Engine(tmp_path).encode(TEXTS)
    change(tmp_path, quantization_config={"quant_method": "bitnet"})
    with pytest.raises(ModelFileError, match=r"linear_class.*-o backbone.linear_class"):
        Engine(tmp_path)
    np.testing.assert_array_equal(Engine(tmp_path, linear_class="autobitlinear").encode(TEXTS), want)
    assert relative_error(Engine(tmp_path, linear_class="bitlinear").encode(TEXTS), want) > 0.1
    change(tmp_path, quantization_config=None)
    with pytest.raises(ModelFileError, match="linear_class"):
        Engine(tmp_path)
    change(tmp_path, quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelFileError, match="gptq"):
        Engine(tmp_path)


def test_master_weights_of_bitnet_are_quantised_as_transformers_does_online(tmp_path: Path) -> None:
    from transformers.integrations.bitnet import replace_with_bitnet_linear
    from transformers.utils.quantization_config import BitNetQuantConfig

    model = save_rounded(bitnet(), tmp_path, torch.bfloat16)
    online = BitNetQuantConfig(linear_class="autobitlinear", quantization_mode="online")
    change(tmp_path, quantization_config=online.to_dict())
    weights = model.state_dict()
    model = replace_with_bitnet_linear(model, ["lm_head"], online)
    model.load_state_dict(weights, assign=True)
    assert Engine(tmp_path).format == "ternary"
    assert any("run as ternary" in lack for lack in convert(tmp_path, tmp_path / "model.gguf"))
    check(tmp_path, model, 1e-3, None)


@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
@pytest.mark.parametrize("suffix", [".norm", ".rms_norm"])
def test_a_norm_before_each_projection(tmp_path: Path, name: str, suffix: str) -> None:
    """Microsoft's embedding models have one: an RMSNorm of its own inside each linear layer, on what enters it."""
    model = MODELS[name](tie_word_embeddings=True)
    weights = {key: weight for key, weight in model.state_dict().items() if "lm_head" not in key}
    torch.manual_seed(2)
    for path, module in list(model.named_modules()):
        if path.endswith("_proj"):
            norm = torch.nn.RMSNorm(module.in_features, eps=model.config.rms_norm_eps)
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
            weights[f"{path}{suffix}.weight"] = norm.weight.detach()
            model.set_submodule(path, torch.nn.Sequential(norm, module))
    model.config.save_pretrained(tmp_path)
    safetensors.torch.save_file(
        {key.removeprefix("model."): weight for key, weight in weights.items()}, tmp_path / "model.safetensors"
    )
    change(tmp_path, tie_word_embeddings=True)
    check(tmp_path, model, 1e-4)


def test_the_backbone_reads_texts_with_the_checkpoints_tokenizer(tmp_path: Path) -> None:
    model = llama()
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelFileError, match=r"tokenizer\.json"):
        LanguageModel(LanguageModelOptions(model=str(tmp_path)), format="fp32")
    tokenizer = add_tokenizer(tmp_path)
    backbone = LanguageModel(LanguageModelOptions(model=str(tmp_path)), format="fp32")
    ids = tokenizer.encode("the thin moth").ids
    assert ids[0] == tokenizer.token_to_id("<s>")  # by tokenizer.json's own rule
    np.testing.assert_array_equal(backbone.encode(["the thin moth"]), Engine(tmp_path).encode([ids]))

    add_tokenizer(tmp_path, add_bos_token=False)
    without = LanguageModel(LanguageModelOptions(model=str(tmp_path)), format="fp32")
    np.testing.assert_array_equal(without.encode(["the thin moth"]), Engine(tmp_path).encode([ids[1:]]))
    assert without.identity["model_sha256"] != backbone.identity["model_sha256"]
    # A text that spells a control token is text.
    spelt = without.tokenizer.encode("<s>", add_special_tokens=False).ids
    assert without.tokenizer.token_to_id("<s>") not in spelt


def test_the_tokenizer_must_fit_the_vocabulary(tmp_path: Path) -> None:
    llama(vocab_size=256).save_pretrained(tmp_path)
    add_tokenizer(tmp_path, add_bos_token=False)
    with pytest.raises(ModelFileError, match="257 tokens but embeds only 256"):
        LanguageModel(LanguageModelOptions(model=str(tmp_path)), format="fp32")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelFileError, match=r"broken tokenizer\.json"):
        LanguageModel(LanguageModelOptions(model=str(tmp_path)), format="fp32")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": None}, "lacks hidden_act.*-o backbone.activation"),
        ({"hidden_act": "gelu_new"}, "hidden_act = gelu_new"),
        ({"rms_norm_eps": None}, "lacks rms_norm_eps"),
        ({"rope_parameters": None}, "lacks rope_theta"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "lacks factor"),
        ({"rope_scaling": {"type": "ntk", "factor": 2.0}, "rope_parameters": None}, "lacks rope_theta"),
        ({"rope_scaling": {"type": "ntk"}, "rope_theta": 1e4, "rope_parameters": None}, "rope_type = ntk"),
        ({"model_type": "mixtral"}, "model_type = mixtral.*supported: bitnet, llama"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"num_local_experts": 8}, "num_local_experts = 8"),
        ({"num_hidden_layers": "3"}, "num_hidden_layers = 3; expected an integer above 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers = True"),
        ({"num_hidden_layers": 4}, r"blk\.3"),
        ({"hidden_size": 64}, "rows of 64"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps = small"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types"),
        ({"layer_types": 3}, "layer_types = 3"),
        ({"quantization_config": [1]}, "quantization_config"),
        ({"model_type": ["llama"]}, "model_type"),
        ({"architectures": "LlamaForCausalLM"}, "architectures"),
    ],
    ids=str,
)
def test_what_the_configuration_lacks_or_the_engine_does_not_compute_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    llama().save_pretrained(tmp_path)
    change(tmp_path, **changes)
    with pytest.raises(ModelFileError, match=message) as caught:
        Engine(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_activation_the_configuration_lacks_can_be_named(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    want = Engine(tmp_path).encode(TEXTS)
    change(tmp_path, hidden_act=None)
    np.testing.assert_array_equal(Engine(tmp_path, activation="silu").encode(TEXTS), want)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_scales_that_are_no_factors_are_errors(tmp_path: Path, value: float) -> None:
    packed(bitnet(), tmp_path, "autobitlinear")
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight_scale"][0] = value
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match=r"up_proj\.weight_scale"):
        Engine(tmp_path)


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        (lambda t: t.update({"model.layers.0.mlp.up_proj.weight_scale": torch.ones(2)}), "expected a number"),
        (lambda t: t.pop("model.layers.0.mlp.up_proj.weight_scale"), "lacks .*up_proj.weight_scale"),
        (lambda t: t.pop("model.layers.0.mlp.up_proj.weight"), "nothing that it scales"),
        (lambda t: t.update({"model.layers.0.mlp.up_proj.bias": torch.ones(80)}), "up_proj.bias"),
        (lambda t: t.update({"embed_tokens.weight": torch.ones(300, 48)}), "twice"),
        (lambda t: t.update({"model.norm.weight": torch.ones(48, dtype=torch.float64)}), "type F64"),
        (lambda t: t.update({"model.norm.weight": torch.ones(48, dtype=torch.uint8)}), "type U8"),
        (lambda t: t.update({"model.norm.weight": torch.ones(2, 3, 8)}), "shape"),
        (lambda t: t["model.layers.0.mlp.up_proj.weight"].fill_(0xE4), "up_proj|ffn_up"),  # code 3
    ],
    ids=["two scales", "no scale", "only scale", "bias", "twice", "double", "bytes", "3 dimensions", "code 3"],
)
def test_wrong_tensors_are_errors(tmp_path: Path, breakage: Any, message: str) -> None:
    packed(bitnet(), tmp_path, "autobitlinear")
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    breakage(tensors)
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    for format in ("ternary", "int8", "fp32"):
        with pytest.raises(ModelFileError, match=message):
            Engine(tmp_path, format)


def test_directories_that_are_no_checkpoint_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"neither model\.safetensors nor"):
        Engine(tmp_path)
    llama().save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelFileError, match=r"config\.json"):
        Engine(tmp_path)
    with pytest.raises(UsageError, match=r"no\.safetensors"):
        Engine(tmp_path / "no.safetensors")


@pytest.mark.parametrize("stored", ["same", "another", "none"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_the_one_that_transformers_takes(tmp_path: Path, tied: bool, stored: str) -> None:
    """A head beside tie_word_embeddings is its own where it differs; without one and without the tie there is none."""
    model = llama(tie_word_embeddings=False)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    if stored != "another":
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    if stored == "none":
        del weights["lm_head.weight"]
    model.config.save_pretrained(tmp_path)
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    change(tmp_path, tie_word_embeddings=tied)
    engine = Engine(tmp_path, threads=1)
    if stored == "none" and not tied:
        with pytest.raises(ModelFileError, match=r"no head \(lm_head.weight\), and tie_word_embeddings is false"):
            engine.generate([[1]], 1)
        return
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    _, logits = Sequences(engine).read([[1, 2, 3]], 1)
    with torch.no_grad():
        want = theirs(torch.tensor([[1, 2, 3]])).logits[0, -1].numpy()
    assert relative_error(logits[0], want) < 1e-4


def test_a_wordpiece_vocabulary_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    """Pieces with a prefix, lower case, [CLS] and [SEP] around a text that names none of them."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    words = ["[UNK]", "[CLS]", "[SEP]", "the", "thin", "##ner", "moth", "##s", "0", ".", "##1", "a", "##b", "##a"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.decoder = decoders.WordPiece()
    llama().save_pretrained(tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    ours = LanguageModel(LanguageModelOptions(model=str(tmp_path), threads=1), format="fp32")
    for text in ("The thinner moths", "0.1 aba THE", "unknown"):
        want = theirs(text)["input_ids"]
        np.testing.assert_array_equal(ours.encode([text]), ours.engine.encode([want]))
        assert ours.tokenize([text]) == [want[1:-1]]


@pytest.mark.parametrize("name", MODELS)
def test_generates_what_transformers_generates_greedily(tmp_path: Path, name: str) -> None:
    """Tokens of the head that the checkpoint has, tied or its own; and weights go back where they came from."""
    model = MODELS[name]()
    model.save_pretrained(tmp_path)
    tokens = [1, 2, 3]
    with torch.no_grad():
        for _ in range(12):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    engine = Engine(tmp_path)
    (found,) = engine.generate([tokens[:3]], 12, temperature=0.0)
    assert found.tokens.tolist() == tokens[3:]
    before = engine.encode(TEXTS)
    engine.replace("blk.0.ffn_gate.weight", 2 * engine.file.weights("blk.0.ffn_gate.weight"))
    assert relative_error(engine.encode(TEXTS), before) > 1e-3
    engine.replace("blk.0.ffn_gate.weight", engine.file.weights("blk.0.ffn_gate.weight"))
    np.testing.assert_array_equal(engine.encode(TEXTS), before)
