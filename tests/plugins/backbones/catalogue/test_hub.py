"""Models of the Hugging Face hub: the real client against a hub in this process."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hugging_face_models as models
import numpy as np
import pytest
from hub_server import Hub, point_client_at, running_hub
from huggingface_hub import constants
from split_models import split
from tiny_models import TinyModel
from tokenizers import AddedToken, Tokenizer

from bitrl import load_backbone
from bitrl.core.errors import BitrlError, RunFailed, UsageError
from bitrl.plugins.backbones.catalogue import ENTRIES, ModelEntry, hints, pull, resolve
from bitrl.plugins.backbones.catalogue import Hub as Source
from bitrl.plugins.backbones.files.model_file import ModelFileError

TEXTS = ['{"x": 0.25}', "the thin thing", ""]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as hub:
        point_client_at(hub, tmp_path, monkeypatch)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield hub


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    models.llama().save_pretrained(folder)
    models.add_tokenizer(folder)
    (folder / "README.md").write_text("# A model")
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.safetensors").write_bytes(b"another model")
    return folder


def files_below(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3", "bitnet", "shards"])
def test_a_pulled_checkpoint_gives_the_features_of_its_files(hub: Hub, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "files"
    if kind == "bitnet":
        models.packed(models.bitnet(tie_word_embeddings=True), folder, "autobitlinear")
    else:
        make = {"llama": models.llama, "qwen3": models.qwen3, "gemma3": models.gemma3, "shards": models.llama}[kind]
        make().save_pretrained(folder, max_shard_size="60KB" if kind == "shards" else "1GB")
    models.add_tokenizer(folder)
    hub.add("tiny/model", folder)
    name = "hf:tiny/model"
    pulled = pull(name)
    weights = {path.name for path in folder.glob("*.safetensors")}
    assert (len(weights) > 1) == (kind == "shards")
    index = {"model.safetensors.index.json"} if kind == "shards" else set()
    generation = {"generation_config.json"} & {path.name for path in folder.iterdir()}
    assert bool(generation) == (kind != "bitnet")
    assert {Path(file.path).name for file in pulled.files} == {
        *weights, *index, *generation, "config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    for file in pulled.files:
        assert hashlib.sha256((folder / Path(file.path).name).read_bytes()).hexdigest() == file.sha256
    assert pulled.origin == f"{name}@{hub.repositories['tiny/model'].commit}"
    format = "bitnet" if kind == "bitnet" else "bf16"
    by_name, by_path = (load_backbone(format, model=model) for model in (name, str(folder)))
    assert (by_name.encode(TEXTS) == by_path.encode(TEXTS)).all()
    assert np.abs(by_name.encode(TEXTS)).max() > 0
    assert by_name.identity == by_path.identity  # type: ignore[attr-defined]


def test_only_what_the_engine_reads_is_downloaded(hub: Hub, llama: Path) -> None:
    repository = hub.add("tiny/llama", llama)
    repository.files["chat_template.jinja"] = b"{{ messages[0].content }}"  # where transformers saves it
    pull("hf:tiny/llama")
    small = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert hub.fetched() == {*small, "model.safetensors"}


def test_the_environment_reaches_the_client(hub: Hub, llama: Path, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME and HF_TOKEN, as a user has them: read when the client is imported."""
    hub.add("tiny/llama", llama, gated=403)
    homes = {"HF_HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "own")}
    done = subprocess.run(
        [sys.executable, "-c", "from bitrl.cli import main; main()", "model", "pull", "hf:tiny/llama", "--json"],
        capture_output=True, text=True, env={**os.environ, **homes, "HF_ENDPOINT": hub.url, "HF_TOKEN": "let-me-in"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert Path(found["path"]).is_relative_to(tmp_path / "home" / "hub")
    assert (Path(found["path"]) / "model.safetensors").read_bytes() == (llama / "model.safetensors").read_bytes()


def test_a_broken_download_goes_on_where_it_broke(hub: Hub, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # files here are smaller than one of the client's 10 MB
    hub.add("tiny/llama", llama)
    hub.drop_after["model.safetensors"] = 50_500
    path = Path(pull("hf:tiny/llama").path) / "model.safetensors"
    assert path.read_bytes() == (llama / "model.safetensors").read_bytes()
    asked = [range for method, file, range in hub.requests if (method, file) == ("GET", "model.safetensors")]
    assert asked[0] is None
    assert len(asked) == 2
    start = int(str(asked[1]).removeprefix("bytes=").rstrip("-"))
    assert 0 < start <= 50_500


def test_what_is_here_needs_no_hub_and_is_checked_again(hub: Hub, llama: Path) -> None:
    hub.add("tiny/llama", llama)
    first = pull("hf:tiny/llama")
    hub.requests.clear()
    assert pull("hf:tiny/llama") == first
    assert resolve("hf:tiny/llama") == Path(first.path)
    assert hub.requests == []
    weights = Path(first.path) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(RunFailed, match="has changed since it was downloaded: remove it"):
        pull("hf:tiny/llama")
    weights.resolve().unlink()
    weights.unlink()
    with pytest.raises(UsageError, match=r"^hf:tiny/llama is not downloaded: bitrl model pull hf:tiny/llama$"):
        resolve("hf:tiny/llama")
    assert pull("hf:tiny/llama") == first


def test_update_asks_for_what_the_hub_has_now(hub: Hub, llama: Path) -> None:
    repository = hub.add("tiny/llama", llama)
    first = pull("hf:tiny/llama")
    repository.files["tokenizer_config.json"] = json.dumps({"add_bos_token": False}).encode()
    assert pull("hf:tiny/llama") == first
    second = pull("hf:tiny/llama", update=True)
    assert second.origin.endswith(repository.commit)
    assert second.path != first.path
    assert resolve("hf:tiny/llama") == Path(second.path)
    pinned = pull(f"hf:tiny/llama@{repository.commit}")
    assert pinned.path == second.path


def test_a_repository_that_changes_meanwhile(hub: Hub, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    repository = hub.add("tiny/llama", llama)
    ask = HfApi.model_info

    def ask_and_change(*arguments: Any, **given: Any) -> Any:
        monkeypatch.setattr(HfApi, "model_info", ask)
        info = ask(*arguments, **given)
        repository.files["README.md"] = b"something new"
        return info

    monkeypatch.setattr(HfApi, "model_info", ask_and_change)
    assert "hf:tiny/llama has changed while it was pulled: pull again" in str(failure("hf:tiny/llama"))
    assert pull("hf:tiny/llama").origin.endswith(repository.commit)


@pytest.fixture
def two_ggufs(tmp_path: Path) -> Path:
    folder = tmp_path / "ggufs"
    (folder / "q").mkdir(parents=True)
    TinyModel().write(folder / "a.gguf")
    TinyModel(seed=1).write(folder / "q" / "b.gguf")
    (folder / "config.json").write_text("{}")
    return folder


def test_gguf_repositories(hub: Hub, two_ggufs: Path) -> None:
    repository = hub.add("tiny/gguf", two_ggufs)
    with pytest.raises(UsageError, match=r"holds 2 GGUF files \(a.gguf, q/b.gguf\): name one, as hf:tiny/gguf/a.gguf$"):
        pull("hf:tiny/gguf")
    with pytest.raises(UsageError, match=r"no such file; its GGUF files: a.gguf, q/b.gguf$"):
        pull("hf:tiny/gguf/c.gguf")
    named = pull("hf:tiny/gguf/q/b.gguf")
    assert hub.fetched() == {"q/b.gguf"}
    by_name, by_path = (load_backbone("bitnet", model=str(model)) for model in (named.name, two_ggufs / "q/b.gguf"))
    assert (by_name.encode(TEXTS) == by_path.encode(TEXTS)).all()
    del repository.files["q/b.gguf"]
    assert pull("hf:tiny/gguf").path.endswith("a.gguf")
    del repository.files["a.gguf"]
    with pytest.raises(UsageError, match=r"holds neither model[.]safetensors nor a GGUF file"):
        pull("hf:tiny/gguf", update=True)


def test_a_split_gguf_is_pulled_whole(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "split"
    (folder / "q").mkdir(parents=True)
    whole, _ = split(folder / "q")
    data = whole.read_bytes()
    whole.unlink()
    repository = hub.add("tiny/split", folder)
    for name in ("hf:tiny/split", "hf:tiny/split/q/model-00002-of-00003.gguf"):
        pulled = pull(name)
        assert hub.fetched() == {f"q/model-0000{i}-of-00003.gguf" for i in (1, 2, 3)}
        assert Path(pulled.path).name == "model-00001-of-00003.gguf"
        (tmp_path / "whole.gguf").write_bytes(data)
        by_name, by_path = (load_backbone("bitnet", model=model) for model in (name, str(tmp_path / "whole.gguf")))
        assert (by_name.encode(TEXTS) == by_path.encode(TEXTS)).all()
    del repository.files["q/model-00003-of-00003.gguf"]
    with pytest.raises(
        UsageError, match=r"q/model-00001-of-00003.gguf, a part of a split model, but not q/model-00003"
    ):
        pull("hf:tiny/split/q/model-00001-of-00003.gguf")


def test_an_entry_of_the_catalogue(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hints count where the user says nothing; its hash is compared with the hub's before a download."""
    folder = tmp_path / "files"
    models.packed(models.bitnet(tie_word_embeddings=True), folder, "autobitlinear")
    models.add_tokenizer(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]["linear_class"]
    (folder / "config.json").write_text(json.dumps(config))
    hub.add("tiny/packed", folder)
    entry = ModelEntry("tiny-packed", Source("tiny/packed"), hints={"linear_class": "autobitlinear"})
    monkeypatch.setitem(ENTRIES, entry.name, entry)
    with pytest.raises(UsageError, match="tiny-packed is not downloaded: bitrl model pull tiny-packed"):
        load_backbone("bitnet", model="tiny-packed")
    pull("tiny-packed")
    told = load_backbone("bitnet", model=str(folder), linear_class="autobitlinear")
    assert (load_backbone("bitnet", model="tiny-packed").encode(TEXTS) == told.encode(TEXTS)).all()
    with pytest.raises(ModelFileError, match="linear_class"):
        load_backbone("bitnet", model=str(folder))
    divided = load_backbone("bitnet", model="tiny-packed", linear_class="bitlinear")
    assert (divided.encode(TEXTS) != told.encode(TEXTS)).any()
    assert hints("tiny-packed") == {"activation": None, "linear_class": "autobitlinear"}


def test_an_entry_with_a_hash_takes_that_file_alone(hub: Hub, two_ggufs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = hub.add("tiny/gguf", two_ggufs)
    right = hashlib.sha256(repository.files["a.gguf"]).hexdigest()
    entry = ModelEntry("tiny-gguf", Source("tiny/gguf", file="a.gguf", sha256=right))
    monkeypatch.setitem(ENTRIES, entry.name, entry)
    first = pull("tiny-gguf")
    assert first.files[0].sha256 == right
    repository.files["a.gguf"] = repository.files["q/b.gguf"]
    hub.requests.clear()
    with pytest.raises(RunFailed, match=r"is now another file .* than the one this catalogue knows .*nothing was down"):
        pull("tiny-gguf", update=True)
    assert hub.fetched() == set()
    assert pull("tiny-gguf") == first


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer_config.json"])
def test_a_wrong_hash_is_refused(hub: Hub, llama: Path, tmp_path: Path, file: str) -> None:
    """Sizes fit, so the client itself notices nothing. Hashes of large and of small files are of two kinds."""
    hub.add("tiny/llama", llama)
    wrong = bytearray((llama / file).read_bytes())
    wrong[-3] ^= 1
    hub.served[file] = bytes(wrong)
    with pytest.raises(RunFailed, match=rf"{file} has a wrong hash \(expected .*, got .*\) and was discarded: pull"):
        pull("hf:tiny/llama")
    with pytest.raises(UsageError, match="is not downloaded"):
        resolve("hf:tiny/llama")
    assert file not in files_below(tmp_path / "hub")
    assert all(path.read_bytes() != wrong for path in (tmp_path / "hub").rglob("*") if path.is_file())
    hub.served.clear()
    assert (Path(pull("hf:tiny/llama").path) / file).read_bytes() == (llama / file).read_bytes()


def test_a_wrong_file_of_somebody_else_is_refused_and_left_alone(hub: Hub, llama: Path) -> None:
    from huggingface_hub import snapshot_download

    hub.add("tiny/llama", llama)
    weights = Path(snapshot_download("tiny/llama")) / "model.safetensors"
    wrong = bytearray(weights.read_bytes())
    wrong[-1] ^= 1
    weights.write_bytes(wrong)
    with pytest.raises(RunFailed, match="was there before this pull and is left unchanged: remove it and pull again"):
        pull("hf:tiny/llama")
    assert weights.read_bytes() == wrong


def failure(name: str) -> BitrlError:
    with pytest.raises(BitrlError) as caught:
        pull(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    with pytest.raises(UsageError):
        resolve(name)
    return caught.value


@pytest.mark.parametrize("status", [404, 401])
def test_no_such_repository(hub: Hub, status: int) -> None:
    hub.unknown = status
    error = failure("hf:tiny/nonesuch")
    assert error.exit_code == 2
    assert f"hf:tiny/nonesuch: there is no such repository at {hub.url}, or it is private" in str(error)


def test_no_such_revision(hub: Hub, llama: Path) -> None:
    hub.add("tiny/llama", llama)
    assert "the repository has no revision v9" in str(failure("hf:tiny/llama@v9"))


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository(hub: Hub, llama: Path, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("tiny/llama", llama, gated=status)
    error = failure("hf:tiny/llama")
    assert error.exit_code == 2
    assert f"is gated: accept its terms at {hub.url}/tiny/llama, and log in (hf auth login, or HF_TOKEN)" in str(error)
    monkeypatch.setenv("HF_TOKEN", "let-me-in")
    assert pull("hf:tiny/llama").bytes > 0


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    error = failure("hf:tiny/llama")
    assert error.exit_code == 1
    assert "http://127.0.0.1:1 cannot be reached" in str(error)
    assert "Connection refused" in str(error)


@pytest.mark.parametrize(
    "error",
    [ConnectionResetError(errno.ECONNRESET, "reset"), TimeoutError(errno.ETIMEDOUT, "slow"), socket.gaierror(-2, "no")],
    ids=["reset", "timeout", "name"],
)
def test_a_broken_connection_is_not_the_disks_fault(hub: Hub, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", broken)
    with pytest.raises(RunFailed, match=r"cannot be reached, or broke off .*check the network"):
        pull("hf:tiny/model")


def test_offline_mode(hub: Hub, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import snapshot_download

    hub.add("tiny/llama", llama)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "offline mode is on: unset HF_HUB_OFFLINE" in str(failure("hf:tiny/llama"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = snapshot_download("tiny/llama")  # by somebody else, or on another machine
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    first = pull("hf:tiny/llama")
    assert first.path == folder
    # A cache that holds what the engine reads and no more, as `pull` itself leaves it.
    (Path(folder) / "README.md").unlink()
    (Path(folder) / "pytorch_model.bin").unlink()
    shutil.rmtree(os.environ["XDG_CACHE_HOME"])
    assert pull("hf:tiny/llama") == first
    assert hub.requests == []
    shutil.rmtree(os.environ["XDG_CACHE_HOME"])
    (Path(folder) / "model.safetensors").unlink()
    shutil.rmtree(Path(folder) / "onnx")
    assert "offline mode is on: unset HF_HUB_OFFLINE" in str(failure("hf:tiny/llama"))


def test_a_full_disk(hub: Hub, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import file_download

    hub.add("tiny/llama", llama)
    get = file_download.http_get

    def full(url: str, temp_file: Any, **given: Any) -> None:
        if not url.endswith("model.safetensors"):
            get(url, temp_file, **given)
            return
        temp_file.write(b"some of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file_download, "http_get", full)
    error = failure("hf:tiny/llama")
    assert error.exit_code == 1
    assert "no space left on the disk: free some, or choose another place for the hub's cache with HF_HOME" in str(
        error
    )
    assert not [path for path in (tmp_path / "hub").rglob("*") if path.is_file() and b"some of it" in path.read_bytes()]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"model_type": "mamba"}, "config.json has model_type = mamba, which is not supported; supported: bitnet, "),
        ({"architectures": ["LlamaForSequenceClassification"]}, "a decoder alone is"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised by gptq"),
        ({"vocab_size": 200}, "has 257 tokens but embeds only 200 of them"),
    ],
)
def test_what_cannot_be_run_is_refused_before_its_weights_come(
    hub: Hub, llama: Path, said: dict[str, Any], message: str
) -> None:
    repository = hub.add("tiny/llama", llama)
    config = json.loads(repository.files["config.json"]) | said
    repository.files["config.json"] = json.dumps(config).encode()
    error = failure("hf:tiny/llama")
    assert message in str(error)
    assert str(error).startswith("hf:tiny/llama")
    assert "model.safetensors" not in hub.fetched()


def test_special_tokens_beyond_the_embedding_do_no_harm(hub: Hub, llama: Path) -> None:
    """Gemma 3's text models have the token of an image there. A plain token may not lie there."""
    repository = hub.add("tiny/llama", llama)
    tokenizer = Tokenizer.from_file(str(llama / "tokenizer.json"))
    rows = json.loads((llama / "config.json").read_text())["vocab_size"]
    tokenizer.add_special_tokens([AddedToken(f"<{i}>", special=True) for i in range(rows)])
    repository.files["tokenizer.json"] = tokenizer.to_str().encode()
    pull("hf:tiny/llama")
    features = load_backbone("bf16", model="hf:tiny/llama").encode(["<7> th", f"<{rows - 1}>"])
    repository.files["tokenizer.json"] = (llama / "tokenizer.json").read_bytes()
    pull("hf:tiny/llama", update=True)
    assert (load_backbone("bf16", model="hf:tiny/llama").encode(["<7> th", f"<{rows - 1}>"]) == features).all()
    tokenizer.add_tokens(["plain"])
    repository.files["tokenizer.json"] = tokenizer.to_str().encode()
    with pytest.raises(ModelFileError, match=f"embeds only {rows} of them"):
        pull("hf:tiny/llama", update=True)


def test_broken_repositories(hub: Hub, llama: Path) -> None:
    repository = hub.add("tiny/llama", llama)
    del repository.files["tokenizer.json"]
    assert "has no tokenizer.json" in str(failure("hf:tiny/llama"))
    repository = hub.add("tiny/llama", llama)
    del repository.files["model.safetensors"]
    repository.files["model.safetensors.index.json"] = b'{"weight_map": {"x": "../../../etc/passwd"}}'
    assert "names '../../../etc/passwd', which is not among its files" in str(failure("hf:tiny/llama"))
    assert "model.safetensors" not in hub.fetched()


def test_without_huggingface_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "need huggingface_hub: pip install 'bitrl[hub]'" in str(failure("hf:tiny/llama"))


@pytest.mark.parametrize("name", ["hf:", "hf:llama", "hf:a/b/c", "hf:../x", "hf:a/b/c.gguf/d", "hf:a/..", "hf:a/b@"])
def test_names_that_are_none(hub: Hub, name: str) -> None:
    with pytest.raises(UsageError):
        resolve(name)
    with pytest.raises(UsageError, match="hf:OWNER/NAME"):
        pull(name)
    assert hub.requests == []
