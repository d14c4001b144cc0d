"""`bitrl study`, `compare`, `report`, `plot` and `watch`, as a user calls them; runs of others are written by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from small_studies import DATA, go

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


def test_a_dry_run_says_the_time_of_what_is_left(bitrl: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that was stopped goes on, one that failed does not unless it is asked to, and of three cells for two
    processes one waits.
    """
    study = go(tmp_path / "study", {**DATA, "study": {"seeds": "0-2"}})
    monkeypatch.setattr("bitrl.core.studies.estimate.seconds_per_step", lambda *_: dict.fromkeys(study.design.arms, 1))
    cells = study.design.cells
    for cell in cells[:4]:
        (study.place(cell) / "summary.json").unlink()
        (study.place(cell) / "metrics.jsonl").write_text('{"step": 84}\n')
    study.fail(cells[0], "out of memory")
    plan = json.loads(bitrl("study", study.directory, "--dry-run", "--jobs", "2", "--json").out)
    assert [row["seconds"] for row in plan["cells"]] == [0, 300, 300, 300, 0, 0]
    assert plan["seconds"] == 600
    again = bitrl("study", study.directory, "--dry-run", "--jobs", "2", "--retry").out
    assert "6 cells, 2,304 steps of which 1,200 are left, about 10:00 of training with 2 at once" in again


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
        (("--vary", "backbone=mlp", "--vary", "backbone=bitnet", "--out", "x"), "backbone is varied twice"),
        (("--env", "CartPole-v1", "--vary", "env=Acrobot-v1", "--out", "x"), "env is varied twice"),
        (("--vary", "backbone=mlp", "--seeds", "x", "--out", "y"), "seeds"),
        (("--backbone", "mlq", "--vary", "algo.gamma=0.9", "--out", "x"), 'did you mean "mlp"'),
        (("--backbone", "mlp", "--vary", "backbone=bitnet", "--out", "x"), "backbone is varied, and given to every"),
        (("--steps", "8", "--vary", "run.steps=9", "--out", "x"), "run.steps is varied, and given to every cell"),
        (("-o", "algo.gamma=1", "--vary", "algo.gamma=0.9", "--out", "x"), "algo.gamma is varied, and given"),
        (("missing.toml", "--backbone", "mlp"), "--backbone: the study is in missing.toml"),
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


def test_components_of_every_cell_are_named_as_a_run_names_them(bitrl: Call, tmp_path: Path) -> None:
    chosen = ("--backbone", "mlp", "--serializer", "vector", "--algo", "ppo", "--steps", "64", "--seeds", "0")
    arguments = ("--env", "CartPole-v1", "--vary", "algo.gamma=0.9,0.95", "-o", "run.num_envs=2", *chosen)
    made = bitrl("study", *arguments, "--out", tmp_path / "study", "--quiet")
    assert made.code == 0, made.err
    runs = [tomllib.loads(path.read_text())["run"] for path in tmp_path.glob("study/runs/*/*/config.toml")]
    assert [(each["backbone"], each["serializer"], each["steps"]) for each in runs] == 2 * [("mlp", "vector", 64)]


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


def test_tables_for_a_paper_come_with_the_warnings_of_a_comparison(bitrl: Call, tmp_path: Path) -> None:
    """A page has a place for them, a table has none."""
    for seed in range(2):
        write_run(tmp_path / "runs" / str(seed), "mlp", seed, 480.0 + seed)
    for name, words in (("t.tex", True), ("t.md", True), ("t.csv", True), ("t.html", False)):
        done = bitrl("report", tmp_path / "runs", "--out", tmp_path / name)
        assert ("warning: CartPole-v1, base: 2 seeds are too few to compare" in done.err) == words


def test_cells_of_a_study_that_have_not_begun_are_said(bitrl: Call, tmp_path: Path) -> None:
    study = go(tmp_path / "study", {**DATA, "study": {"seeds": "0"}}).directory
    assert "begun" not in bitrl("compare", study).err
    text = (study / "study.toml").read_text()
    (study / "study.toml").write_text(text.replace('seeds = "0"', 'seeds = "0-4"'))
    assert f"warning: {study}: 8 of the study's 10 cells have not begun" in bitrl("compare", study).err


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


def test_a_picture_shows_what_the_svg_shows(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Names that begin with "_", a ninth curve, which has the first one's colour, and bands wider than the curves."""

    def picture(*curves: Curve) -> bytes:
        draw(tmp_path / "c.png", "t", "x", "y", curves)
        return (tmp_path / "c.png").read_bytes()

    def flat(label: str, height: float, band: float = 0.0) -> Curve:
        return Curve(label, (1, 2), (height, height), (height - band,) * 2, (height + band,) * 2)

    assert picture(flat("_a", 1.0)) != picture(flat("_b", 1.0))
    nine = [flat(str(n), float(n)) for n in range(9)]
    swapped = [flat("0", 8.0), *nine[1:8], flat("8", 0.0)]
    assert picture(*nine) != picture(*swapped), "the first and the ninth can be told apart"
    assert picture(flat("a", 1.0, 50.0), flat("b", 2.0)) == picture(flat("a", 1.0, 500.0), flat("b", 2.0))
    assert capfd.readouterr().err == ""
    picture(flat("日本", 1.0))
    assert capfd.readouterr().err.splitlines() == [
        f"warning: {tmp_path / 'c.png'}: its font lacks letters of the names, which are boxes: name a .svg, or rename "
        "the arms"
    ]


def evaluated(run: Path, *returns: float) -> Path:
    """A run with evaluations while training, at each 100 steps."""
    rows = [{"step": 100 * n, "episodes": 5, "mean_return": value} for n, value in enumerate(returns, 1)]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_plot_shows_a_single_evaluation(bitrl: Call, tmp_path: Path) -> None:
    run = evaluated(write_run(tmp_path / "run", "mlp", 0, 300.0), 120.0)
    assert "1 curve of 1 run\n" in bitrl("plot", run, "--out", tmp_path / "c.svg").out
    picture = ElementTree.parse(tmp_path / "c.svg").getroot()
    [dot] = picture.iter("{http://www.w3.org/2000/svg}circle")
    assert 68 <= float(dot.attrib["cx"]) <= 704
    for name, steps in (("dot.png", (100,)), ("none.png", (100, 100))):
        draw(tmp_path / name, "t", "x", "y", [Curve("arm", steps, (1.0,) * len(steps), None, None)])
    assert (tmp_path / "dot.png").read_bytes() != (tmp_path / "none.png").read_bytes()


def test_plot_says_which_runs_are_left_out_and_where_a_curve_ends(bitrl: Call, runs: Path, tmp_path: Path) -> None:
    (runs / "bf16-0" / "metrics.jsonl").write_text("")
    rows = (runs / "bf16-1" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (runs / "bf16-1" / "metrics.jsonl").write_text("".join(rows[:2]))
    done = bitrl("plot", runs, "--out", tmp_path / "c.svg")
    assert "2 curves of 5 runs" in done.out
    assert f"{runs / 'bf16-0'}: has no return yet: it is left out" in done.err
    assert f"backbone=bf16: drawn up to step 200, the last of {runs / 'bf16-1'}" in done.err


def test_one_seed_is_not_drawn_as_two(bitrl: Call, runs: Path, tmp_path: Path) -> None:
    again = write_run(tmp_path / "again", "bf16", 0, 1.0)
    refused = bitrl("plot", runs, again, "--out", tmp_path / "c.svg")
    assert (refused.code, "seed 0 is there twice" in refused.err) == (2, True)


@pytest.mark.parametrize(
    "settings", [("eval_every = 100", "eval_every = 200"), ('memory_limit = "none"', 'memory_limit = "900MB"')]
)
def test_what_changes_nothing_that_is_learned_makes_no_other_arm(
    bitrl: Call, tmp_path: Path, settings: tuple[str, str]
) -> None:
    for seed, setting in enumerate(settings):
        run = write_run(tmp_path / "runs" / f"{seed}", "mlp", seed, 300.0)
        text = (run / "config.toml").read_text()
        (run / "config.toml").write_text(text.replace("steps = 300", f"steps = 300\n{setting}"))
    [row] = json.loads(bitrl("compare", tmp_path / "runs", "--json").out)["rows"]
    assert row["seeds"] == [0, 1]


def test_a_run_that_learned_on_from_an_agent_is_no_other_seed(bitrl: Call, tmp_path: Path) -> None:
    first, other, on = (tmp_path / f"r{seed}" for seed in range(3))
    for seed, run in enumerate((first, other)):
        bitrl("run", "--steps", 64 * (seed + 1), "--seed", seed, "--out", run, "--backbone", "mlp", *QUICK)
    bitrl("export", first, "--out", tmp_path / "agent.safetensors")
    bitrl("run", "--resume", tmp_path / "agent.safetensors", "--steps", 128, "--seed", 2, "--out", on)
    rows = json.loads(bitrl("compare", other, on, "--json").out)["rows"]
    assert [(row["arm"], row["seeds"]) for row in rows] == [("resume=none", [1]), ("resume=agent of 64 steps", [2])]


def test_steps_to_90_percent_are_of_evaluations_only_where_all_runs_have_them(
    bitrl: Call, runs: Path, tmp_path: Path
) -> None:
    """Greedy actions get there earlier: an arm without evaluations would be behind for that alone."""

    def steps() -> dict[str, float]:
        return {row["arm"]: row["steps_to_90"] for row in json.loads(bitrl("compare", runs, "--json").out)["rows"]}

    assert steps() == {"backbone=bf16": 300, "backbone=bitnet": 300}
    for seed in range(3):
        evaluated(runs / f"bf16-{seed}", 10.0, 500.0, 500.0)
    assert steps() == {"backbone=bf16": 300, "backbone=bitnet": 300}
    for seed in range(3):
        evaluated(runs / f"bitnet-{seed}", 10.0, 10.0, 500.0)
    assert steps() == {"backbone=bf16": 200, "backbone=bitnet": 300}


def test_watch_shows_evaluations_while_training(bitrl: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = evaluated(write_run(tmp_path / "a" / "run", "mlp", 0, None), 120.0, 180.0, 170.0)
    shown = " ".join(bitrl("watch", "--once", run).out.split())
    assert "greedy return ▁█▇ 170.0 now, 180.0 best, at step 200" in shown
    [facts] = json.loads(bitrl("watch", "--json", run).out)["runs"]
    assert facts["evaluations"][1] == {"step": 200, "mean_return": 180.0}
    monkeypatch.chdir(run)
    assert bitrl("watch", "--once", ".").out.split()[:2] == ["run", "run"]
    monkeypatch.chdir(tmp_path)
    other = write_run(tmp_path / "run", "mlp", 0, None)
    assert other.exists()
    assert bitrl("watch", "--once", "run", "a/run").out.split()[:3] == ["run", "run", "a/run"]


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


def test_watch_shows_the_runs_of_a_study_that_have_not_finished(bitrl: Call, tmp_path: Path) -> None:
    study = tmp_path / "study"
    (study / "runs").mkdir(parents=True)
    (study / "study.toml").write_text("")
    assert "study: no run of this study has begun" in bitrl("watch", study).err
    done, going = (write_run(study / "runs" / "arm" / f"seed{seed}", "mlp", seed, 480.0 + seed) for seed in range(2))
    assert " ".join(bitrl("watch", study).out.split()).startswith("run seed0 seed1 progress 300 of 300")
    (going / "summary.json").unlink()
    shown = bitrl("watch", study).out
    assert "seed1" in shown
    assert "seed0" not in shown
    assert done.exists()


def test_watch_gives_each_of_many_runs_a_row(bitrl: Call, tmp_path: Path) -> None:
    runs = [write_run(tmp_path / arm / f"seed{seed}", "mlp", seed, 480.0) for arm in ("a", "b") for seed in range(4)]
    lines = bitrl("watch", "--once", *runs).out.splitlines()
    assert lines[0].split() == ["run", "trained", "sampled", "greedy", "steps/s", "time", "left"]
    assert [line.split()[0] for line in lines[1:]] == [f"{arm}/seed{seed}" for arm in "ab" for seed in range(4)]
    assert lines[1].split()[1:] == ["100%", "480.0", "480.0", "50", "finished"]


@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_watch_in_a_narrow_terminal_leaves_columns_out_and_shows_names(
    bitrl: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    names = [f"run-{number}" for number in range(4)]
    runs = [write_run(tmp_path / name, "mlp", 0, 480.0) for name in names]
    lines = bitrl("watch", "--once", *runs).out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", *names]
    whole = ["100%", "480.0", "480.0", "50", "finished"]
    shown = {20: 1, 40: 4, 60: 5, 80: 5}[width]
    assert all(line.split()[1:] == whole[:shown] and len(line) <= width for line in lines[1:])
    long = write_run(tmp_path / ("n" * 70), "mlp", 0, 480.0)
    lines = bitrl("watch", "--once", *runs, long).out.splitlines()
    assert "".join(line.split()[0] for line in lines[5:]) == long.name
    assert all(len(line) <= width for line in lines)


def test_watching_a_study_goes_on_between_its_cells_and_ends_where_the_last_has_failed(
    bitrl: Call, tmp_path: Path, monkeypatch
) -> None:
    """No run is unfinished while the next one's process starts."""
    study = go(tmp_path / "study", {**DATA, "study": {"seeds": "0"}})
    last = study.place(study.design.cells[1])
    last.rename(tmp_path / "later")
    waited = []

    def next_cell(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 1:
            (tmp_path / "later").rename(last)
            (last / "summary.json").unlink()
        else:
            study.fail(study.design.cells[1], "out of memory")

    monkeypatch.setattr("bitrl.cli.watch.time.sleep", next_cell)
    monkeypatch.setattr("bitrl.cli.watch.console", lambda: Console(force_terminal=True))
    assert bitrl("watch", study.directory).code == 0
    assert len(waited) == 2


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
