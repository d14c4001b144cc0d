"""Odd model files after reports in other projects' trackers (README.md lists them): each one is made here, and is read
rightly or refused in one line that names the cause."""

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import bytes_of, header, model
from hugging_face_models import add_tokenizer, llama
from safetensors_attacks import entry, file_bytes
from split_models import TINY, split
from tiny_models import TinyModel, gguf_bytes

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones import LanguageModelOptions
from bitrl.plugins.backbones.engine.engine import Engine, open_model
from bitrl.plugins.backbones.files.model_file import ModelFile, ModelFileError
from bitrl.plugins.backbones.files.tokenizer import tokenizer_from_json
from bitrl.plugins.backbones.files.tokenizer_json import calmly
from bitrl.plugins.backbones.language_model import LanguageModel
from bitrl.plugins.backbones.text_tokens import encode_text
from bitrl.plugins.backbones.tools.inspection import inspect

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1187801280\n"


def in_zip(name: str) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as file:
        file.writestr(name, pickle.dumps({"weight": [1.0]}, 2))
    return whole.getvalue()


def in_tar() -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as file:
        file.addfile(tarfile.TarInfo("model.gguf"), io.BytesIO(b""))
    return whole.getvalue()


GGUF = gguf_bytes(*model("F16"))
NO_MODELS: dict[str, tuple[bytes, str]] = {
    "Git LFS pointer": (POINTER, r"Git LFS pointer.* 1187801280 bytes.*git lfs pull"),
    "HTML page": (b"\n<!DOCTYPE html>\n<html><head><title>model.gguf</title>", r"web page \(HTML\)"),
    "XML error": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML document.*server"),
    "JSON error": (b'{"error": "Repository not found"}' + b" " * 40, "JSON.*server"),
    "nothing": (b"", "0 bytes"),
    "zeros": (bytes(1 << 16), "zeros alone.*unfinished download"),
    "PyTorch's zip": (in_zip("archive/data.pkl"), r"PyTorch file \(pickle\).*safetensors"),
    "PyTorch's pickle": (pickle.dumps({"weight": [1.0]}, 2) + bytes(64), r"PyTorch file \(pickle\).*safetensors"),
    "zip": (in_zip("model.gguf"), "ZIP archive: unpack"),
    "gzip": (gzip.compress(GGUF), "gzip archive: unpack"),
    "tar": (in_tar(), "tar archive: unpack"),
    "GGJT": (b"tjgg" + struct.pack("<I", 3) + bytes(64), "before GGUF"),
    "ONNX": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0" + bytes(64), "ONNX"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
}


def refused(path: Path, words: str) -> None:
    for use in (open_model, inspect):
        with pytest.raises(ModelFileError, match=words) as caught:
            use(path)
        message = str(caught.value)
        assert str(path.parent) in message
        assert message.isprintable()
        assert len(message.removeprefix(str(path))) < 300


@pytest.mark.parametrize("name", NO_MODELS)
@pytest.mark.parametrize("suffix", [".gguf", ".safetensors"])
def test_what_is_no_model_is_called_what_it_is(tmp_path: Path, name: str, suffix: str) -> None:
    data, words = NO_MODELS[name]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(data)
    if suffix == ".safetensors":
        llama(num_hidden_layers=1).config.save_pretrained(tmp_path)
    refused(path, words)


@pytest.mark.parametrize("name", ["Git LFS pointer", "HTML page"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_a_small_file_of_a_checkpoint_that_was_not_downloaded(tmp_path: Path, name: str, file: str) -> None:
    llama(num_hidden_layers=1).save_pretrained(tmp_path, max_shard_size="20KB")
    add_tokenizer(tmp_path)
    data, words = NO_MODELS[name]
    (tmp_path / file).write_bytes(data)
    with pytest.raises(ModelFileError, match=f"{file}.*{words}"):
        LanguageModel(LanguageModelOptions(model=str(tmp_path)), format="fp32")


def test_other_byte_orders_versions_and_names(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for data, words in (
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(64), "big-endian GGUF.*gguf-convert-endian"),
        (b"FUGG" + struct.pack(">IQQ", 3, 0, 0) + bytes(64), "big-endian GGUF"),
        (header(0, 0, b"", version=1), "version 1;.*newer conversion"),
        (header(0, 0, b"", version=4), "version 4;.*update bitrl"),
        (file_bytes({"t": entry()}, bytes(8)), r"safetensors file: give it a name that ends in \.safetensors"),
    ):
        path.write_bytes(data)
        refused(path, words)
    llama(num_hidden_layers=1).config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(GGUF)
    refused(tmp_path / "model.safetensors", r"GGUF file: give it a name that ends in \.gguf")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("pytorch_model.bin", "pytorch_model.bin: weights as a pickle"),
        ("model-Q8_0.gguf", "model-Q8_0.gguf: name that file"),
        ("model.onnx", "ONNX"),
        ("README.md", "neither"),
    ],
)
def test_a_directory_without_weights_says_what_it_holds(tmp_path: Path, file: str, words: str) -> None:
    llama(num_hidden_layers=1).config.save_pretrained(tmp_path)
    (tmp_path / file).write_bytes(b"x")
    with pytest.raises(ModelFileError, match=words):
        open_model(tmp_path)


def test_a_file_of_any_name_is_read_as_what_it_is(tmp_path: Path) -> None:
    """A blob of Ollama's has the hash for a name."""
    path = TinyModel(**TINY).write(tmp_path / f"sha256-{'0' * 64}")
    assert Engine(path, threads=1).encode([[1, 2, 3]]).shape == (1, 48)


# ---- split files ----


def test_a_split_file_is_the_whole_one(tmp_path: Path) -> None:
    whole, parts = split(tmp_path)
    texts = [[1, 5, 299], [7]]
    want = Engine(whole, threads=1).encode(texts)
    identities = set()
    for part in parts:
        engine = Engine(part, threads=1)
        np.testing.assert_array_equal(engine.encode(texts), want)
        assert {t.name for t in engine.tensors} == {t.name for t in ModelFile(whole).tensors()}
        found = inspect(part)
        assert found.verdict.words == "runs as it is"
        assert found.file.size == sum(path.stat().st_size for path in parts)
        identities.add(LanguageModel(LanguageModelOptions(model=str(part), threads=1)).identity["model_sha256"])
    assert len(identities) == 1
    assert len(identities.pop()) == 64


def test_a_split_model_is_another_when_any_part_is(tmp_path: Path) -> None:
    _, parts = split(tmp_path)
    before = ModelFile(parts[0]).sha256()
    data = bytearray(parts[2].read_bytes())
    data[-40] ^= 1
    parts[2].write_bytes(data)
    assert ModelFile(parts[0]).sha256() != before


def test_parts_that_are_missing_misnamed_or_of_another_model(tmp_path: Path) -> None:
    _, parts = split(tmp_path)
    second = parts[1].read_bytes()
    parts[1].unlink()
    for path in (parts[0], parts[2]):
        refused(path, "of 3 of a split model, and model-00002-of-00003.gguf is not beside it")
    parts[1].write_bytes(parts[2].read_bytes())
    refused(parts[0], "model-00002-of-00003.gguf does not belong beside .*part 2 .from 0. of 3")
    parts[1].write_bytes(POINTER)
    refused(parts[0], "model-00002-of-00003.gguf is a Git LFS pointer")
    (tmp_path / "renamed.gguf").write_bytes(second)
    refused(tmp_path / "renamed.gguf", "part 2 of 3.*call it NAME-00002-of-00003.gguf")
    (tmp_path / "others").mkdir()
    _, others = split(tmp_path / "others", **{"split.tensors.count": 99})
    refused(others[0], "hold .* tensors, not the 99")


# ---- tokenizers ----


def tokenizer(change: Callable[[dict[str, Any]], Any]) -> str:
    """A good tokenizer.json with something changed."""
    whole: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None, "decoder": None,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]],
        },
    }  # fmt: skip
    change(whole)
    return json.dumps(whole)


def longer(times: int, steps: int) -> dict[str, Any]:
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * times}
    return {"type": "Sequence", "normalizers": [step] * steps}


PIECE, TEXT = {"Sequence": {"id": "A", "type_id": 0}}, {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}
HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a letter becomes a million": (lambda t: t.update(normalizer=longer(1_000_000, 1)), "64 times as long"),
    "ten steps of ten": (lambda t: t.update(normalizer=longer(10, 10)), "64 times as long"),
    "between all letters": (
        lambda t: t.update(normalizer={"type": "Replace", "pattern": {"Regex": ""}, "content": "a" * 100}), "64 times",
    ),
    "a page before a text": (
        lambda t: t.update(normalizer={"type": "Prepend", "prepend": "a" * 10**7}), "10000000 tokens or characters",
    ),
    "the text again and again": (lambda t: t.update(post_processor=TEXT | {"single": [PIECE] * 60}), "60 times"),
    "thousands of tokens": (lambda t: t.update(post_processor=TEXT | {"single": [PIECE] * 5000}), "5000 tokens"),
    "a decoder that multiplies": (
        lambda t: t.update(decoder={"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10**6}), "decoder",
    ),
    "Precompiled that panics": (
        lambda t: t.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "x"}), "'Precompiled'.*not supp",
    ),
    "FixedLength that panics": (
        lambda t: t.update(pre_tokenizer={"type": "FixedLength", "length": 0}), "'FixedLength'.*not supported",
    ),
    "cut at random": (lambda t: t["model"].update(dropout=0.5), "dropout"),
    "a long prefix of every character": (
        lambda t: t["model"].update(continuing_subword_prefix="#" * 10**5, merges=[]), "prefix has 100000 characters",
    ),
    "a long end of every word": (
        lambda t: t["model"].update(end_of_word_suffix="#" * 10**5, merges=[]), "suffix has 100000 characters",
    ),
    "an unknown step": (lambda t: t.update(decoder={"type": "\x1b[2J"}), "not supported"),
    "an unknown model": (lambda t: t["model"].update(type="Bigram"), "'Bigram'.*not supported"),
    "no model": (lambda t: t.pop("model"), "no model"),
    "a list": (lambda t: t.update(normalizer=[1, 2]), "broken"),
    "merges beyond the vocabulary": (lambda t: t["model"].update(merges=[["ab", "ab"]]), "broken"),
    "a prefix longer than a token": (
        lambda t: t["model"].update(continuing_subword_prefix="####", merges=[["a", "b"]]), "broken",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tokenizer_is_refused_before_it_is_built(name: str) -> None:
    change, words = HOSTILE[name]
    with pytest.raises(ModelFileError, match=words) as caught:
        tokenizer_from_json(tokenizer(change), "there/tokenizer.json")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_nesting_and_keys_that_stand_twice() -> None:
    for text in ('{"normalizer":' + "[" * 100_000, '{"model": {}, "model": {}}', "[]", "", "nothing"):
        with pytest.raises(ModelFileError, match="broken tokenizer"):
            tokenizer_from_json(text, "tokenizer.json")


def test_a_panic_of_the_library_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Panics:
        def encode(self, text: str, add_special_tokens: bool) -> Any:
            raise type("PanicException", (BaseException,), {})("index out of bounds")

    with pytest.raises(UsageError, match=r"cannot read 'a'.*gave up: index out of bounds"):
        encode_text(Panics(), "a")  # type: ignore[arg-type]
    # The library itself: a template that names a token which is not among its own.
    llama(num_hidden_layers=1).save_pretrained(tmp_path)
    add_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    whole = json.loads(path.read_text())
    whole["post_processor"]["special_tokens"] = {}
    path.write_text(json.dumps(whole))
    capfd.readouterr()
    with pytest.raises(ModelFileError, match="broken tokenizer"):
        LanguageModel(LanguageModelOptions(model=str(tmp_path)), format="fp32")
    assert capfd.readouterr().err == ""  # the one line is all


def test_what_else_is_said_beside_a_panic_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    panic = b"\nthread '<unnamed>' (7) panicked at template.rs:563:61:\nno entry\n"
    note = b"note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n"

    def use() -> int:
        os.write(2, b"before\n" + panic + note + b"after\n")
        return 5

    assert calmly(use, quietly=True) == 5
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "before\nafter\nlater\n"


def test_usual_tokenizers_are_read() -> None:
    """The steps of Gemma's and of Llama 2's, one after another."""
    steps = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    read = tokenizer_from_json(
        tokenizer(lambda t: t.update(normalizer={"type": "Sequence", "normalizers": steps}, pre_tokenizer=None)), "t"
    )
    assert encode_text(read, "ab a").ids == [2, 0]


# ---- files that change while they are used ----

CHILD = """
import os, sys
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.engine import Engine
path, truncated = sys.argv[1:]
engine = Engine(path, threads=1)
engine.encode([[1, 2, 3]])
os.truncate(truncated, 4096)
for use in (
    lambda: engine.encode([[200, 299]]),
    lambda: engine.generate([[299]], 2),
    lambda: engine.file.weights("token_embd.weight"),
):
    try:
        use()
        print("went on")
    except UsageError as error:
        print(str(error).replace(truncated, "FILE"))
"""


DURING = """
import os, sys
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.engine import Engine
path, truncated = sys.argv[1:]
engine = Engine(path, threads=1)
first = engine.encode([[1, 2, 3]])
engine.generate([[1]], 2)  # which loads the head
sizes, checks = engine.file.sizes.check, []
def check_and_truncate():  # what another process does after the sizes were checked
    checks.append(sizes)
    if len(checks) == 1:
        os.truncate(truncated, 4096)
    elif sys.stdin.readline() == "checked\\n":
        sizes()
engine.file.sizes.check = check_and_truncate
for use in (lambda: engine.encode([[200, 299]]), lambda: engine.generate([[298]], 2)):
    try:
        use()
        print("went on")
    except UsageError as error:
        print(str(error).replace(truncated, "FILE").replace(path, "FILE"))
again = engine.encode([[1, 2, 3]])  # whose rows were read before
assert (again == first).all()
"""


WHILE_LOADING = """
import os, sys
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.files.model_file import Sizes
path, truncated = sys.argv[1:]
what, check = sys.stdin.readline().strip(), Sizes.check
def check_and_truncate(sizes):  # what another process does after the sizes were checked
    check(sizes)
    os.truncate(truncated, 4096)
    Sizes.check = lambda sizes: None  # and undoes later, or changes in the moment after
try:
    if what == "model":
        Sizes.check = check_and_truncate
        Engine(path, threads=2)
    else:
        engine = Engine(path, threads=2)
        engine.encode([[1, 2, 3]])
        Sizes.check = check_and_truncate
        engine.generate([[1, 2, 3]], 2)
    print("went on")
except UsageError as error:
    print(str(error).replace(truncated, "FILE").replace(path, "FILE"))
"""


def in_a_child(tmp_path: Path, kind: str, code: str, lines: str = "") -> list[str]:
    """What a child prints that truncates a model, of which it is given the path and that of the file to truncate."""
    if kind == "safetensors":
        llama().save_pretrained(tmp_path)
        path, truncated = tmp_path, tmp_path / "model.safetensors"
    else:
        whole, parts = split(tmp_path)
        path = truncated = whole if kind == "GGUF" else parts[0]
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(truncated)], input=lines, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-500:])
    return done.stdout.splitlines()


@pytest.mark.parametrize("kind", ["GGUF", "split", "safetensors"])
def test_a_model_truncated_while_it_is_mapped_is_an_error_not_a_bus_error(tmp_path: Path, kind: str) -> None:
    said = in_a_child(tmp_path, kind, CHILD)
    assert [line.partition(":")[0] for line in said] == ["FILE changed while it was in use"] * 3


@pytest.mark.parametrize("kind", ["GGUF", "split", "safetensors"])
def test_a_model_truncated_during_a_call_is_an_error_not_a_bus_error(tmp_path: Path, kind: str) -> None:
    message = "FILE cannot be read any more: it lost its end, or its disk fails; start again"
    assert in_a_child(tmp_path, kind, DURING) == [message] * 2


def test_features_of_a_file_that_was_truncated_meanwhile_are_not_given_out(tmp_path: Path) -> None:
    """Its last page reads as zeros where the file has ended."""
    assert in_a_child(tmp_path, "GGUF", DURING, "checked\n")[0].startswith("FILE changed while it was in use")


@pytest.mark.parametrize("what", ["model", "head"])
@pytest.mark.parametrize("kind", ["GGUF", "split", "safetensors"])
def test_a_model_truncated_while_it_is_loaded_is_an_error_not_a_bus_error(tmp_path: Path, kind: str, what: str) -> None:
    message = "FILE cannot be read any more: it lost its end, or its disk fails; start again"
    assert in_a_child(tmp_path, kind, WHILE_LOADING, f"{what}\n") == [message]


def test_the_keys_of_a_file_that_lost_them_meanwhile_are_known(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from bitrl.plugins.backbones.files.model_file import ModelFile\n"
        "file = ModelFile(sys.argv[1])\n"
        "os.truncate(sys.argv[2], 0)\n"
        "print(len(file.metadata()['tokenizer.ggml.tokens']), len(file.tensors()) > 9)\n"
    )
    assert in_a_child(tmp_path, "GGUF", code) == ["300 True"]


def test_a_header_of_any_length_is_read_and_one_without_end_is_not(tmp_path: Path) -> None:
    """It is read in parts: one of 5 MB, and one whose key claims 32 GB, which the file, of holes, could hold."""
    keys, tensors = model("F16")
    short, path = tmp_path / "short.gguf", tmp_path / "long.gguf"
    short.write_bytes(gguf_bytes(keys, tensors))
    path.write_bytes(gguf_bytes({**keys, "general.description": "x" * 5_000_000}, tensors))
    read = ModelFile(path)
    assert len(read.metadata()["general.description"]) == 5_000_000
    name = "blk.0.ffn_down.weight"
    np.testing.assert_array_equal(read.weights(name), ModelFile(short).weights(name))
    endless = tmp_path / "endless.gguf"
    text = struct.pack("<Q", 1 << 35)
    endless.write_bytes(
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 8) + text
    )
    os.truncate(endless, 1 << 36)
    refused(endless, "is damaged: its header takes more than 256 MiB")


def test_a_tensor_cut_short_is_named(tmp_path: Path) -> None:
    keys, tensors = model("F16")
    path = tmp_path / "cut.gguf"
    path.write_bytes(gguf_bytes(keys, bytes_of("blk.0.ffn_down.weight", tensors, lambda raw: raw))[:-40])
    refused(path, r"is truncated or damaged: tensor blk\.0\.ffn_down\.weight lies beyond its end")
