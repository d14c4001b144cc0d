"""Which tokens go before and after a text: as the file says, and as llama.cpp does where it leaves that open."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hugging_face_models import add_tokenizer, llama
from tiny_models import TinyModel
from tokenizers import processors

from bitrl.plugins.backbones import LanguageModelOptions
from bitrl.plugins.backbones.engine.engine import Engine, open_model
from bitrl.plugins.backbones.files.first_token import first_tokens, last_tokens
from bitrl.plugins.backbones.files.model_file import ModelFileError
from bitrl.plugins.backbones.language_model import LanguageModel
from bitrl.plugins.backbones.tools.convert import convert


def keys(**changes: Any) -> dict[str, Any]:
    said = {"model": "gpt2", "pre": "llama-bpe", "bos_token_id": 7} | changes
    return {f"tokenizer.ggml.{name}": value for name, value in said.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({}, [7]),
        ({"pre": "llama3"}, [7]),
        ({"pre": "llama-v3"}, [7]),
        ({"pre": "falcon3"}, [7]),
        ({"pre": "tekken"}, [7]),
        ({"pre": "qwen2"}, []),
        ({"pre": "gpt-2"}, []),
        ({"pre": "smollm"}, []),
        ({"pre": "default"}, []),
        ({"pre": None}, []),
        ({"pre": "bitrl-2"}, []),
        ({"add_bos_token": False}, []),
        ({"pre": "qwen2", "add_bos_token": True}, [7]),
        ({"model": "llama", "pre": None}, [7]),
        ({"model": "llama", "add_bos_token": False}, []),
        ({"model": None}, []),
    ],
)
def test_the_convention(changes: dict[str, Any], want: list[int]) -> None:
    assert first_tokens(keys(**changes), 10, "m.gguf") == want


@pytest.mark.parametrize("token", [None, 10, -1, "bos"])
def test_which_token_is_never_guessed(token: Any) -> None:
    with pytest.raises(ModelFileError, match=r"m.gguf asks for a first token .*by default of llama-bpe.*bos_token_id"):
        first_tokens(keys(bos_token_id=token), 10, "m.gguf")


def test_a_llama_3_file_that_says_nothing_is_read_with_its_first_token(tmp_path: Path) -> None:
    """And what was trained before is told that texts are read otherwise now."""
    model = TinyModel(width=48, ffn=80, blocks=1)

    def backbone(name: str, said: bool | None) -> LanguageModel:
        open_key = {f"tokenizer.ggml.{key}": value for key, value in {"bos_token_id": 7, "add_bos_token": said}.items()}
        path = model.write(tmp_path / name, changes={**open_key, "tokenizer.ggml.pre": "llama-bpe"})
        return LanguageModel(LanguageModelOptions(model=str(path), threads=1))

    silent, without = backbone("silent.gguf", None), backbone("without.gguf", False)
    ids = without.tokenizer.encode("x=0.1").ids
    engine = Engine(tmp_path / "silent.gguf", threads=1)
    np.testing.assert_array_equal(silent.encode(["x=0.1"]), engine.encode([[7, *ids]]))
    np.testing.assert_array_equal(without.encode(["x=0.1"]), engine.encode([ids]))
    assert silent.identity["first_token"] == 7
    assert without.identity["first_token"] is None


@pytest.mark.parametrize(
    ("changes", "want"),
    [({}, []), ({"add_eos_token": False}, []), ({"add_eos_token": True}, [3]), ({"add_eos_token": 1}, [3])],
)
def test_a_last_token_is_put_where_the_file_says_so(changes: dict[str, Any], want: list[int]) -> None:
    assert last_tokens(keys(eos_token_id=3, **changes), 10, "m.gguf") == want


@pytest.mark.parametrize("changes", [{}, {"eos_token_id": 10}, {"eos_token_id": "eos"}])
def test_which_token_is_last_is_never_guessed(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError, match=r"m.gguf asks for a last token \(add_eos_token\) .*eos_token_id"):
        last_tokens(keys(add_eos_token=True, **changes), 10, "m.gguf")


def test_a_text_is_encoded_with_its_last_token_and_a_prompt_goes_on_without(tmp_path: Path) -> None:
    """As llama.cpp's tokenizer does with add_special; and what was trained before is told."""
    model = TinyModel(width=48, ffn=80, blocks=2)

    def backbone(name: str, width: int | None = None, **changes: Any) -> LanguageModel:
        path = model.write(
            tmp_path / name, changes=keys(model=None, pre=None, bos_token_id=7, eos_token_id=9, **changes)
        )
        pooling = "mean" if width is None else "field"
        return LanguageModel(LanguageModelOptions(model=str(path), threads=1, pooling=pooling), width)

    both, last = (
        backbone("both.gguf", add_bos_token=True, add_eos_token=True),
        backbone("last.gguf", add_eos_token=True),
    )
    without = backbone("without.gguf")
    texts = ["x=0.1", ""]
    ids = [without.tokenizer.encode(text).ids for text in texts]
    engine = without.engine
    np.testing.assert_array_equal(last.encode(texts), engine.encode([[*each, 9] for each in ids]))
    np.testing.assert_array_equal(both.encode(texts), engine.encode([[7, *each, 9] for each in ids]))
    np.testing.assert_array_equal(both.tokens(texts)[0], engine.encode([[7, *ids[0], 9]], "none"))
    blocks = both.pooled_blocks(texts, ["mean", "last"], 1)
    np.testing.assert_allclose(blocks["last"][0, -1], engine.encode([[7, *ids[0], 9]], "last")[0], rtol=1e-6)
    assert both.pooled_places(texts)[0] == [[7, *each, 9] for each in ids]
    assert both.prompt_ids(texts) == [[7, *each] for each in ids]
    assert both.token_counts(texts) == [len(each) for each in ids]
    assert (both.identity["last_token"], without.identity["last_token"]) == (9, None)
    fields = [backbone(f"field{said}.gguf", 1, add_eos_token=said).encode(["x=0.1"]) for said in (True, False)]
    np.testing.assert_array_equal(*fields)  # the state of a number does not see what comes after


@pytest.mark.parametrize(
    ("template", "said", "want"),
    [
        ("<s> $A", {}, ([257], [])),
        ("$A </s>", {"bos_token": None}, ([], [258])),
        ("<s> $A </s>", {}, ([257], [258])),
        ("<s> $A </s>", {"add_eos_token": False}, ([257], [])),
        ("<s> $A </s>", {"add_bos_token": False}, ([], [258])),
        ("$A", {"add_eos_token": True}, ([], [258])),
        ("<s> $A", {"eos_token": "<s>"}, ([257], [])),
        ("<s> $A", {"eos_token": "<s>", "add_bos_token": False}, ([], [])),
        ("<s> $A </s>", {"bos_token": None, "eos_token": None}, ([257], [258])),  # [CLS] and [SEP], as BERT has them
        ("</s> $A <s>", {}, ([258], [257])),
    ],
)
def test_checkpoints_say_what_stands_around_a_text(
    tmp_path: Path, template: str, said: dict[str, Any], want: tuple[list[int], list[int]]
) -> None:
    llama().save_pretrained(tmp_path)
    tokenizer = add_tokenizer(tmp_path)
    tokenizer.add_special_tokens(["</s>"])
    special = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}} | said
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    convert(tmp_path, tmp_path / "m.gguf")
    for file in (open_model(tmp_path), open_model(tmp_path / "m.gguf")):
        assert (first_tokens(file.metadata(), 300, "m"), last_tokens(file.metadata(), 300, "m")) == want


def test_more_than_a_token_beside_a_text_is_refused(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    tokenizer = add_tokenizer(tmp_path)
    special = [("<s>", tokenizer.token_to_id("<s>"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <s> <s>", special_tokens=special)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelFileError, match="puts 2 tokens beside a text"):
        open_model(tmp_path).metadata()
