"""Attacks known on other loaders: each is refused with one line, within a second and in little memory, by a child
process whose address space ends shortly above what Python and the engine themselves need."""

import hashlib
import json
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hostile_files import STRING, U8, array, attacks_on_the_container, attacks_on_the_model, good
from tiny_models import TinyModel, gguf_bytes, gguf_string

from bitrl.plugins.backbones import LanguageModelOptions
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.files.model_file import HEADER_KEY, TENSOR_KEY, ModelFile, ModelFileError
from bitrl.plugins.backbones.files.tokenizer import tokenizer_from_metadata
from bitrl.plugins.backbones.language_model import LanguageModel

CONTAINER, MODEL = dict(attacks_on_the_container()), dict(attacks_on_the_model())
MOST_BYTES, MOST_SECONDS = 64 << 20, 1.0

CHILD = """
import json, resource, sys, time
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.files.model_file import ModelFileError
from bitrl.plugins.backbones.files.model_file import ModelFile

room, seconds = int(sys.argv[1]), float(sys.argv[2])
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + room
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for line in sys.stdin:
    start = time.process_time()
    stage = "opening"
    try:
        path = json.loads(line)
        ModelFile(path)
        stage = "loading"
        engine = Engine(path, threads=1)
        engine.metadata, engine.tensors
        engine.encode([[0, 1, 2]] if engine.vocabulary > 2 else [[0]])
        stage, answer = "accepted", ""
    except ModelFileError as error:
        answer = str(error)
    print(json.dumps([stage, answer, time.process_time() - start < seconds]), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str, bool]]:
    """Each attack's answer: where it was refused, what was said after the file's name, and whether at once."""
    folder, files = tmp_path_factory.mktemp("attacks"), CONTAINER | MODEL
    paths = [folder / f"{i}.gguf" for i in range(len(files))]
    for path, data in zip(paths, files.values(), strict=True):
        path.write_bytes(data)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(MOST_BYTES), str(MOST_SECONDS)],
        input="".join(json.dumps(str(path)) + "\n" for path in paths),
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 0, f"died at {list(files)[len(said) :][:1]}: {child.stderr[-2000:]}"
    assert all(message.startswith(f"{path} ") for path, (_, message, _) in zip(paths, said, strict=True) if message)
    return {
        name: (stage, message.removeprefix(f"{path} "), quick)
        for name, path, (stage, message, quick) in zip(files, paths, said, strict=True)
    }


@pytest.mark.parametrize("name", [*CONTAINER, *MODEL])
def test_an_attack_is_refused_at_once_in_one_line(answers, name):
    stage, message, quick = answers[name]
    assert stage == "opening" if name in CONTAINER else stage != "accepted"
    assert message.isprintable()
    assert message.split()[0] in ("is", "has", "lacks", "holds", "scales", "rotates"), message
    assert quick


@pytest.mark.parametrize(("name", "data"), list(good()), ids=lambda value: value if isinstance(value, str) else "")
def test_the_files_that_the_attacks_are_made_from_are_good(tmp_path, name, data):
    path = tmp_path / "good.gguf"
    path.write_bytes(data)
    features = Engine(path, threads=1).encode([[0, 1, 4], [2]])
    assert features.shape == (2, 2)
    assert np.isfinite(features).all()


def tokenizer_keys(**changes: Any) -> dict[str, Any]:
    """The metadata of a small tokenizer, with some keys (tokenizer.ggml.*) replaced; None removes one."""
    keys = {k.removeprefix("tokenizer.ggml."): v for k, v in TinyModel().keys().items() if k.startswith("tokenizer.")}
    changed = {**keys, **changes}
    return {f"tokenizer.ggml.{name}": value for name, value in changed.items() if value is not None}


NUMBERS = array(U8, 2, b"\0\1")
TOKENS, MERGES = tokenizer_keys()["tokenizer.ggml.tokens"], tokenizer_keys()["tokenizer.ggml.merges"]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": None},
        {"model": "llama"},
        {"model": NUMBERS},
        {"model": array(U8, 0, b"")},
        {"model": ["gpt2", "gpt2"]},
        {"pre": NUMBERS},
        {"pre": 7},
        {"pre": "nobody's"},
        {"pre": ["gpt-2"]},
        {"tokens": None},
        {"tokens": []},
        {"tokens": 300},
        {"tokens": "words"},
        {"tokens": NUMBERS},
        {"tokens": TOKENS[:-1] + TOKENS[:1]},
        {"tokens": TOKENS[1:]},
        {"tokens": [f"<0x{i:02X}>" for i in range(256)]},
        {"tokens": [f"<0x{i}>" for i in range(-1, 300)]},
        {"merges": None},
        {"merges": NUMBERS},
        {"merges": ["a"]},
        {"merges": [" "]},
        {"merges": ["<0x-1> <0x-2>"]},
        {"merges": ["a \ud800".encode("utf-8", "surrogatepass")]},
        {"tokens": [*TOKENS, b"\xff\xfe"]},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_a_vocabulary_that_cannot_be_is_refused(tmp_path, changes):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(tokenizer_keys(**changes), []))
    with pytest.raises(ModelFileError) as refused:
        tokenizer_from_metadata(ModelFile(path).metadata(), str(path))
    assert str(refused.value).startswith(f"{path} ")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("broken", ["<0x-1>", "<0x100>", "<0xZZ>", "", "\0", "▁"])
def test_a_token_that_only_looks_like_a_byte_is_text(tmp_path, broken):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(tokenizer_keys(tokens=[*TOKENS, broken]), []))
    tokenizer = tokenizer_from_metadata(ModelFile(path).metadata(), str(path))
    assert tokenizer.decode(tokenizer.encode("0.5 <0x-1>").ids) == "0.5 <0x-1>"


@pytest.mark.parametrize(
    "value", [NUMBERS, array(U8, 0, b""), 1, ["0" * 64]], ids=["numbers", "none", "number", "list"]
)
@pytest.mark.parametrize("name", [TENSOR_KEY, HEADER_KEY])
def test_a_checksum_that_is_not_text_is_not_a_checksum(tmp_path, name, value):
    path = tmp_path / "model.gguf"
    keys = {TENSOR_KEY: "0" * 64, HEADER_KEY: "0" * 64} | {name: value}
    text = struct.pack("<IQ", STRING, 64)
    decoy = gguf_string(name) + text + b"0" * 64  # so that the digits are found all the same
    data = gguf_bytes({"decoy": decoy.decode()} | keys, [])
    before = gguf_string(HEADER_KEY) + text
    path.write_bytes(data.replace(before + b"0" * 64, before + hashlib.sha256(data).hexdigest().encode()))
    with pytest.raises(ModelFileError, match="checksum"):
        ModelFile(path).verify()


@pytest.mark.parametrize("changes", [{"add_bos_token": NUMBERS}, {"add_bos_token": True, "bos_token_id": NUMBERS}])
def test_a_first_token_that_is_not_one_is_refused(tmp_path, changes):
    changes = {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    path = TinyModel(blocks=1).write(tmp_path / "model.gguf", changes=changes)
    with pytest.raises(ModelFileError, match="add_bos_token"):
        LanguageModel(LanguageModelOptions(model=str(path)))


def test_memory_follows_the_text_not_the_context_that_a_file_claims(tmp_path):
    path = TinyModel(width=16, ffn=16, heads=1, kv_heads=1, blocks=1, weights="F16", context=2**20).write(
        tmp_path / "model.gguf"
    )
    script = """
import resource, sys
from bitrl.plugins.backbones.engine.engine import Engine
engine = Engine(sys.argv[1], threads=1)
assert engine.context == 2**20
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
engine.encode([[i % 300 for i in range(4096)]])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    child = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, timeout=120)
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) < 64
