"""`bitrl bench`: what it prints and writes, and what it refuses. Not how fast anything is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitrl.cli.measurement import print_table
from bitrl.plugins.backbones.benchmark import engine_speed
from bitrl.plugins.backbones.engine.engine import formats

Call = Callable[..., Any]
SMALL = "random:256x256x1"
KEYS = {"case", "format", "isa", "threads", "tokens_per_second", "peak_fraction", "limit", "peak_rss_mb"}


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The temporary folder; and measurements that take no time."""
    brief = engine_speed.Effort(rounds=2, work_seconds=1e-4, limit_seconds=1e-4, loads=1, buffer_bytes=1 << 24)
    monkeypatch.setattr(engine_speed, "QUICK", brief)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.chdir(tmp_path)
    return temporary


def test_json_is_one_object_with_every_case(bitrl: Call, folder: Path) -> None:
    done = bitrl(
        "bench", "--quick", "--json", "--model", SMALL, "--format", "int8", "--format", "fp32", "--threads", "2,1"
    )
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert {"tokens_per_second", "peak_fraction", "threads", "peak_rss_mb"} <= set(record)
    assert {"command", "date", "commit", "versions", "processor"} <= set(record)
    assert record["threads"] == 2
    assert record["command"].startswith("bitrl bench --model random:256x256x1 --format int8 --format fp32")
    found = record["results"]
    # One block: q and o [256, 256], k and v [64, 256], three of [256, 256] in the feed-forward network.
    assert found["weights"] == (2 + 3) * 256 * 256 + 2 * 64 * 256
    runs = {(row["format"], row["threads"], row["case"]) for row in found["cases"]}
    assert len(runs) == len(found["cases"])
    assert {(format, threads) for format, threads, _ in runs} == {
        (format, threads) for format in ("int8", "fp32") for threads in (1, 2)
    }
    for case in ("encode 32 tokens", "encode 128 tokens", "encode 512 tokens", "encode 16 texts of 8-40 tokens"):
        assert ("int8", 1, case) in runs
    for row in found["cases"]:
        assert set(row) >= KEYS
        assert row["peak_fraction"] > 0
        assert row["tokens_per_second"] > 0
        assert row["limit"] == {"int8": "int8", "fp32": "fp32"}[row["format"]] or row["case"].startswith("decode")
    for load in found["load"]:
        assert load["load_seconds"] > 0
        assert 5 < load["peak_rss_mb"] < 500
        assert not load["torch_imported"]
    for limit in found["limits"]:
        assert set(limit["per_second"]) == {"1", "2"}
        assert all(value > 0 for value in limit["per_second"].values())
    assert ("amx_fraction" in found["cases"][0]) == ("amx_int8" in {limit["limit"] for limit in found["limits"]})
    assert list(folder.iterdir()) == []


def test_fractions_are_the_work_over_the_limit(monkeypatch: pytest.MonkeyPatch, bitrl: Call) -> None:
    """With limits of 1e12 multiply-adds a second, a fraction is tokens a second x weights / 1e12."""
    monkeypatch.setattr(engine_speed.Limits, "measure", lambda self, name, threads, seconds: 1e12)
    found = json.loads(bitrl("bench", "--quick", "--json", "--model", SMALL, "--threads", 1).out)["results"]
    for row in found["cases"]:
        cost = row["bytes_per_token"] if row["limit"] == "memory" else found["weights"]
        # medians of two rounds are means, so this holds exactly
        assert row["peak_fraction"] == pytest.approx(row["tokens_per_second"] * cost / 1e12)


def test_starter_model_reads_states_and_says_where_the_time_goes(bitrl: Call) -> None:
    found = json.loads(bitrl("bench", "--quick", "--json", "--threads", 1).out)["results"]
    [row] = [row for row in found["cases"] if "states_per_second" in row]
    assert row["tokens_per_second"] == pytest.approx(row["states_per_second"] * row["tokens_per_state"])
    assert set(row["microseconds_per_state"]) == {"text", "tokenizer", "engine", "all"}
    assert row["microseconds_per_state"]["all"] == pytest.approx(1e6 / row["states_per_second"])
    assert 10 < row["tokens_per_state"] < 16


def test_decoding_is_a_fraction_of_reading_weights_and_head(monkeypatch: pytest.MonkeyPatch, bitrl: Call) -> None:
    """With a model that takes a second for the prompt and half a second a step: two tokens a second."""
    clock = [0.0]

    def generate(self: object, prompts: list[list[int]], max_tokens: int) -> None:
        clock[0] += 1 + max_tokens / 2

    monkeypatch.setattr(engine_speed.Engine, "generate", generate)
    monkeypatch.setattr(engine_speed.time, "perf_counter", lambda: clock.__setitem__(0, clock[0] + 1e-4) or clock[0])
    monkeypatch.setattr(engine_speed.Limits, "measure", lambda self, name, threads, seconds: 1e6)
    found = json.loads(bitrl("bench", "--quick", "--json", "--model", SMALL, "--threads", 1).out)["results"]
    blocks = {row["format"]: row for row in found["cases"] if row["case"] == "decode 32 tokens, blocks alone"}
    for row in (row for row in found["cases"] if row["case"] == "decode 32 tokens"):
        bits = {"ternary": 2, "ternary-1.6": 1.6}[row["format"]]
        assert row["limit"] == "memory"
        assert blocks[row["format"]]["bytes_per_token"] == pytest.approx(found["weights"] * bits / 8, rel=0.02)
        assert row["bytes_per_token"] - blocks[row["format"]]["bytes_per_token"] == 4096 * 256  # the head in 8 bits
        assert row["tokens_per_second"] == pytest.approx(2, rel=1e-4)
        assert row["peak_fraction"] == pytest.approx(2 * row["bytes_per_token"] / 1e6, rel=1e-4)
    assert set(blocks) == {"ternary", "ternary-1.6"}


def test_every_format_has_its_limit() -> None:
    assert set(formats()) == set(engine_speed.LIMIT_OF)


def test_all_formats_and_a_file_of_ones_own(bitrl: Call, tmp_path: Path) -> None:
    from bitrl.plugins.backbones.benchmark.random_model import random_shape, write_random_model

    write_random_model(tmp_path / "mine.gguf", random_shape("256x256x1"))
    done = bitrl("bench", "--quick", "--json", "--model", tmp_path / "mine.gguf", "--format", "all", "--threads", 1)
    record = json.loads(done.out)
    assert {row["format"] for row in record["results"]["cases"]} == set(formats())
    assert str(tmp_path) not in record["command"]


def test_instruction_set_can_be_chosen(bitrl: Call) -> None:
    record = json.loads(bitrl("bench", "--quick", "--json", "--model", SMALL, "--isa", "scalar", "--threads", 1).out)
    assert {row["isa"] for row in record["results"]["cases"]} == {"scalar"}


def test_plain_tables_on_a_pipe_and_the_same_results_in_a_file(bitrl: Call, tmp_path: Path) -> None:
    done = bitrl("bench", "--quick", "--model", SMALL, "--threads", 1, "--out", tmp_path / "r.json")
    assert done.code == 0, done.err
    assert "\x1b" not in done.out
    record = json.loads((tmp_path / "r.json").read_text())
    rows = record["results"]["cases"]
    for row in rows:
        assert f"{row['peak_fraction']:.0%}" in done.out
        assert row["case"] in done.out
    assert "vpdpbusd" in done.out or "amx_int8" not in done.out
    assert "not for quoting" in done.out
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_terminal_gets_a_ruled_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table("speeds", [("case", "tokens/s"), ("encode", "1,234"), ("decode", "5.6")])
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("speeds", "case", "tokens/s", "encode", "1,234", "5.6"))
    assert "─" in shown or "-" in shown


def test_more_threads_than_cpus_is_a_warning(bitrl: Call) -> None:
    many = len(os.sched_getaffinity(0)) + 1
    done = bitrl("bench", "--quick", "--json", "--model", SMALL, "--threads", many)
    assert done.code == 0
    assert "Warning" in done.err
    assert json.loads(done.out)["threads"] == many


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "missing.gguf"), "no such file"),
        (("--model", "random:bitnet-2b"), "bitnet-2b-4t"),
        (("--model", "random:300x300x1"), "256"),
        (("--model", "text.gguf"), "GGUF"),
        (("--format", "int9"), "int8"),
        (("--isa", "mmx"), "instruction set"),
        (("--threads", "0"), "from 1"),
        (("--threads", "-1"), "from 1"),
        (("--threads", "many"), "expected comma-separated numbers"),
        (("--threads", ""), "expected comma-separated numbers"),
        (("--out", "nowhere/r.json"), "nowhere"),
    ],
)
def test_wrong_commands_are_told_in_one_line(
    bitrl: Call, folder: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "text.gguf").write_text("not a model, but long enough to be one")
    failed = bitrl("bench", "--quick", *arguments)
    assert failed.code == 2
    assert message in failed.err
    assert len(failed.err.strip().splitlines()) == 1
    assert failed.out == ""
    assert list(folder.iterdir()) == []


def test_ctrl_c_leaves_nothing(folder: Path) -> None:
    arguments = ["bench", "--model", "random:1024x4096x8", "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from bitrl.cli import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    deadline = time.monotonic() + 60
    while not list(folder.glob("*/*.gguf")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "Error: interrupted"
    assert out == ""
    assert list(folder.iterdir()) == []


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom bitrl.cli import main\n"
        "try: main(['bench', '--help'])\n"
        "finally: print([m for m in ('torch', 'numpy', 'gguf', 'gymnasium') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
    assert "random:bitnet-2b-4t" in done.stdout
