"""Which token goes before a text when the file leaves it open: what llama.cpp does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import TinyModel

from bitrl.plugins.backbones import LanguageModelOptions
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.files.first_token import first_tokens
from bitrl.plugins.backbones.files.model_file import ModelFileError
from bitrl.plugins.backbones.language_model import LanguageModel


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
