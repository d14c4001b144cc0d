"""`bitrl study`, `compare`, `report`, `plot` and `watch`, as a user calls them; runs of others are written by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from bitrl.cli.plot import draw
from bitrl.cli.study import _shown
from bitrl.core.studies.curves import Curve
from bitrl.core.studies.running import CellState

Call = Callable[..., Any]
QUICK = ["-o", "run.num_envs=4", "-o", "run.eval_episodes=2", "-o", "algo.rollout_steps=64", "-o", "backbone.hidden=8"]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitrl.core.studies.statistics.RESAMPLES", 100)


def write_run(directory: Path, backbone: str, seed: int, value: float | None, env: str = "CartPole-v1") -> Path:
    """A run's directory as `bitrl run` writes it."""
    directory.mkdir(parents=True)
    lines = ["[run]", f'env = "{env}"', f'backbone = "{backbone}"', f"seed = {seed}", "steps = 300", "[provenance]"]
    (directory / "config.toml").write_text("\n".join([*lines, 'git_commit = "0123456789abcdef"', ""]))
    rows = [{"step": step, "episode_return": (value or 1.0) * step / 300, "entropy": 0.5} for step in (100, 200, 300)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "timings.jsonl").write_text(
        "".join(json.dumps({"step": s, "seconds": s / 50}) + "\n" for s in (100, 300))
    )
    if value is not None:
        evaluation = {"episodes": 5, "mean_return": value, "std_return": 1.0}
        summary = {"eval": evaluation, "steps": 300, "peak_rss_mb": 100.0, "steps_per_second": 50.0}
        (directory / "summary.json").write_text(json.dumps(summary))
    return directory


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    place = tmp_path / "runs"
    for seed, value in enumerate((480.0, 490.0, 500.0)):
        write_run(place / f"bf16-{seed}", "bf16", seed, value)
        write_run(place / f"bitnet-{seed}", "bitnet", seed, value + 1)
    return place


def test_a_quick_study_from_the_command_line(bitrl: Call, tmp_path: Path) -> None:
    out = tmp_path / "study"
    wanted = ["study", "--env", "CartPole-v1", "--vary", "backbone=mlp", "--vary", "algo.clip_coef=0.1,0.2"]
    done = bitrl(*wanted, "--seeds", "0", "--steps", 128, *QUICK, "--out", out, "--json")
    assert done.code == 0, done.err
    assert [row["arm"] for row in json.loads(done.out)["rows"]] == ["algo.clip_coef=0.1", "algo.clip_coef=0.2"]
    again = bitrl("study", out)
    assert again.code == 0
    assert "algo.clip_coef=0.2" in again.out
    assert "one seed has no interval" in again.err
    planned = bitrl("study", out, "--dry-run")
    assert "2 cells, 256 steps" in planned.out
    assert planned.out.count("finished") == 2
    before = sorted(tmp_path.rglob("*"))
    other = bitrl(*wanted, "--seeds", "0-1", "--steps", 128, *QUICK, "--out", tmp_path / "planned", "--dry-run")
    assert "4 cells, 512 steps" in other.out
    assert sorted(tmp_path.rglob("*")) == before, "a dry run writes nothing"


def test_a_dry_run_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    wanted = ["study", "--env", "CartPole-v1", "--vary", "backbone=mlp", "-o", "algo.rollout_steps=100000"]
    command = [sys.executable, "-m", "bitrl", *wanted, "--out", str(tmp_path / "study"), "--dry-run"]
    process = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)}, stderr=subprocess.DEVNULL)
    while not [*tmp_path.glob("bitrl-study-*/0/config.toml")]:
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert not [*tmp_path.iterdir()]


def test_ablate_is_another_name_for_study(bitrl: Call) -> None:
    assert bitrl("ablate", "--help").out.replace("ablate", "study") == bitrl("study", "--help").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "what to compare?"),
        (("--vary", "backbone=mlp"), "--out"),
        (("--vary", "backbone", "--out", "x"), "OPTION=VALUE"),
        (("--vary", "backbone=", "--out", "x"), "empty list"),
        (("--vary", "backbone=mlq", "--out", "x"), "did you mean"),
        (("--vary", "backbone=mlp", "--seeds", "x", "--out", "y"), "seeds"),
        (("missing.toml",), "missing.toml: cannot be read"),
        (("missing.toml", "--env", "CartPole-v1"), "--env: the study is in missing.toml"),
        ((".",), "holds no study"),
        (("paper-clasic",), 'did you mean "paper-classic"'),
    ],
)
def test_a_study_that_cannot_be_is_refused_before_anything_is_written(
    bitrl: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = bitrl("study", *arguments)
    assert refused.code == 2
    assert words in refused.err
    assert not [*tmp_path.iterdir()]


def test_compare_says_what_differs_and_whether_it_matters(bitrl: Call, runs: Path) -> None:
    shown = bitrl("compare", runs, "--equivalent-within", "5%")
    assert shown.code == 0, shown.err
    assert "backbone=bitnet" in shown.out
    assert "yes" in shown.out.splitlines()[-2]
    rows = json.loads(bitrl("compare", runs, "--baseline", "backbone=bitnet", "--json").out)["rows"]
    assert {row["arm"]: row["mean"] for row in rows} == {"backbone=bf16": 490.0, "backbone=bitnet": 491.0}
    assert [row["ratio"] for row in rows if row["ratio"]] == [pytest.approx(490 / 491)]


def test_the_papers_claims_are_listed_and_ones_own_study_counts(
    bitrl: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recorded = json.loads(bitrl("study", "paper", "--json").out)
    assert {row["verdict"] for row in recorded["claims"]} >= {"reproduced", "not measured"}
    assert recorded["own"] == []
    place = tmp_path / "studies" / "paper-classic"
    place.mkdir(parents=True)
    (place / "study.toml").write_text('[grid]\nenv = ["CartPole-v1"]\n[arms.bitnet]\nbackbone = "bitnet"\n')
    own = bitrl("study", "paper")
    assert "trained in studies/paper-classic" in own.out
    assert "not measured  CartPole: return of at least 476" in own.out


def test_a_study_is_compared_from_its_file_of_results(bitrl: Call, runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    assert bitrl("report", runs, "--results", "--out", file).code == 0
    assert bitrl("compare", file).out == bitrl("compare", runs).out
    assert bitrl("report", file, "--out", tmp_path / "table.md").code == 0
    assert (tmp_path / "table.md").read_text().startswith("## What differs")
    unknown = bitrl("report", file, "--out", tmp_path / "table.doc")
    assert (unknown.code, "expected a name that ends in .html, .md" in unknown.err) == (2, True)
    unknown = bitrl("report", runs, "--out", tmp_path / "other.json", "--baseline", "bf61")
    assert (unknown.code, 'unknown arm "bf61"' in unknown.err) == (2, True)
    refused = bitrl("compare", tmp_path / "missing.json")
    assert (refused.code, "missing.json: cannot be read" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--baseline", "bf61"), 'unknown arm "bf61"'),
        (("--metric", "success"), "its evaluation has no success; it has episodes, mean_return, std_return"),
        (("--equivalent-within", "five"), "expected a share such as 5%"),
        (("--equivalent-within", "-5%"), "expected a share"),
    ],
)
def test_what_cannot_be_compared_is_refused(bitrl: Call, runs: Path, arguments: tuple[str, ...], words: str) -> None:
    refused = bitrl("compare", runs, *arguments)
    assert (refused.code, words in refused.err) == (2, True), refused.err


def test_runs_that_are_not_there_are_refused(bitrl: Call, tmp_path: Path) -> None:
    assert "no such directory" in bitrl("compare", tmp_path / "none").err
    assert "holds no run" in bitrl("compare", tmp_path).err


def test_a_report_is_written_once_and_names_its_command_and_commit(
    bitrl: Call, runs: Path, tmp_path: Path, monkeypatch
) -> None:
    page = tmp_path / "page.html"
    assert bitrl("report", runs, "--out", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert "bitrl report runs -o page.html" in text
    assert "0123456789ab" in text
    assert "already exists" in bitrl("report", runs, "--out", page).err
    monkeypatch.chdir(runs)
    assert bitrl("report", ".", "--html", "--out", page, "--force").code == 0
    assert "bitrl report runs -o page.html</" in page.read_text(encoding="utf-8")
    for form, word in (("--md", "| arm |"), ("--latex", r"\toprule"), ("--csv", "table,arm")):
        assert bitrl("report", runs, "--out", page, form, "--force").code == 0
        assert word in page.read_text(encoding="utf-8")


def test_plot_draws_one_environment(bitrl: Call, runs: Path, tmp_path: Path) -> None:
    assert "2 curves of 6 runs" in bitrl("plot", runs, "--out", tmp_path / "c.svg").out
    ElementTree.parse(tmp_path / "c.svg")
    assert bitrl("plot", runs, "--out", tmp_path / "c.png").code == 0
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert "expected a name that ends in" in bitrl("plot", runs, "--out", tmp_path / "c.jpg").err
    assert bitrl("plot", runs, "--out", tmp_path / "C.SVG").code == 0
    curve = Curve(r"no $\formula$", (1, 2), (0.0, 1.0), None, None)
    draw(tmp_path / "d.png", "$", "x", "y", [curve])
    other = write_run(tmp_path / "other", "bf16", 0, 1.0, "Acrobot-v1")
    assert "2 tasks" in bitrl("plot", runs, other, "--out", tmp_path / "d.svg").err


def test_watch_shows_runs_side_by_side(bitrl: Call, runs: Path, tmp_path: Path) -> None:
    going = write_run(tmp_path / "going", "mlp", 0, None)
    shown = bitrl("watch", "--once", going, runs / "bf16-0").out
    assert "300 of 300" in shown
    assert "480.0 (greedy)" in shown
    assert "entropy" in shown
    assert "not a run" in bitrl("watch", tmp_path).err
    (going / "timings.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    assert "300 of 300" in bitrl("watch", "--once", going).out
    (going / "config.toml").write_text('[run]\nsteps = "many"\n')
    assert "config.toml: run.steps: expected an integer, got 'many'" in bitrl("watch", "--once", going).err


def test_ctrl_c_ends_watching_and_is_no_error(bitrl: Call, tmp_path: Path, monkeypatch) -> None:
    going = write_run(tmp_path / "going", "mlp", 0, None)

    def ctrl_c(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bitrl.cli.watch.time.sleep", ctrl_c)
    monkeypatch.setattr("bitrl.cli.watch.console", lambda: Console(force_terminal=True))
    done = bitrl("watch", going)
    assert (done.code, done.err) == (0, "")
    assert "300 of 300" in done.out


def test_a_ray_cluster_counts_its_cells_itself(bitrl: Call, tmp_path: Path) -> None:
    wanted = ["study", "--env", "CartPole-v1", "--vary", "backbone=mlp", "--out", tmp_path / "study"]
    done = bitrl(*wanted, "--executor", "ray", "--jobs", 2)
    assert (done.code, done.out) == (2, "")
    assert "--jobs: a Ray cluster" in done.err


def test_words_in_brackets_are_no_markup(bitrl: Call, tmp_path: Path, monkeypatch, capfd) -> None:
    """Rich would swallow `[b]`, and take `[/x]` for the end of something."""
    run = write_run(tmp_path / "a[b] :car: [", "mlp", 0, None)
    assert "a[b] :car: [" in bitrl("watch", "--once", run).out
    for text in ("{", "[]", '{"steps": 300, "eval": {"mean_return": NaN}}'):
        (run / "summary.json").write_text(text)
        assert "summary.json: is damaged" in bitrl("watch", "--once", run).err

    monkeypatch.setattr("bitrl.cli.study.on_terminal", lambda: True)
    cell: Any = SimpleNamespace(name="seed 0")
    with _shown(quiet=False) as show:
        show([CellState(cell, "failed", 0, 1, None, 0.0, "no [/x] in [b]")])
    assert "no [/x] in [b]" in capfd.readouterr().err


def test_watch_goes_on_where_a_runs_files_are_damaged(bitrl: Call, runs: Path, tmp_path: Path) -> None:
    for name, text in (
        ("timings.jsonl", '{"step": 100, "seconds": "a"}\n{"step": 200, "seconds": null}\n{"step": 300}\n'),
        ("metrics.jsonl", '{"step": 100, "episode_return": "8"}\n{"step": null}\n'),
        (
            "metrics.jsonl",
            '{"step": 1, "episode_return": 8}\n{"step": 2, "episode_return": NaN}\n'
            '{"step": 3, "episode_return": 9}\n{"step": NaN}\n',
        ),
        ("timings.jsonl", '{"step": 1, "seconds": NaN}\n'),
    ):
        directory = write_run(tmp_path / f"{len(text)}", "bf16", 0, 480.0)
        (directory / name).write_text(text, encoding="utf-8")
        assert bitrl("watch", "--once", directory).code == 0
        done = bitrl("watch", "--once", "--json", directory)
        assert (done.code, done.err) == (0, "")
        json.loads(done.out, parse_constant=pytest.fail)


def test_a_sparkline_is_as_wide_as_it_may_be() -> None:
    from bitrl.cli.watch import sparkline

    assert sparkline([0.0, 7.0], 10) == "▁█"
    assert sparkline([float(n) for n in range(80)], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, 1.0], 4) == "▄▄"
    assert sparkline([], 4) == "–"
