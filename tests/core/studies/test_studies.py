"""Studies run: finished cells stay, killed ones resume, failed ones are named; and their arms are compared."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import small_studies
from small_studies import DATA, QUICK, go, report

from bitrl.core.errors import RunStopped, UsageError
from bitrl.core.studies.comparison import compare
from bitrl.core.studies.design import read_design
from bitrl.core.studies.processes import Processes
from bitrl.core.studies.results import read_results
from bitrl.core.studies.running import run_study
from bitrl.core.studies.study import Study, progress_of, read_study

HELPERS = str(Path(small_studies.__file__).parent)


def test_every_cell_is_a_run_that_can_be_evaluated_by_itself(finished: Path) -> None:
    summaries = sorted(finished.glob("runs/*/seed*/summary.json"))
    assert len(summaries) == 4
    found = compare(read_study(finished)[1])
    assert [(row.arm, row.seeds) for row in found.rows] == [
        ("algo.clip_coef=0.1", (0, 1)),
        ("algo.clip_coef=0.2", (0, 1)),
    ]
    means = [json.loads(path.read_text())["eval"]["mean_return"] for path in summaries]
    assert sorted(value for row in found.rows for value in row.values) == sorted(means)
    assert all("too few" in warning for warning in found.warnings)


def test_the_same_command_again_runs_nothing_and_more_seeds_run_alone(finished: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.glob("runs/*/seed*/summary.json")}
    began: list[str] = []

    class Counting(Processes):
        def start(self, cell: Any, place: Path) -> None:
            began.append(cell.name)
            super().start(cell, place)

    study, changes = Study.create(finished, DATA)
    run_study(study, Counting(2, 4))
    study.close()
    assert (began, changes.added) == ([], ())
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_arm_that_is_called_otherwise_is_not_trained_again(tmp_path: Path) -> None:
    """A value beside the only one of an axis, which no name had, and a renamed arm."""
    began: list[str] = []

    class Counting(Processes):
        def start(self, cell: Any, place: Path) -> None:
            began.append(cell.name)
            super().start(cell, place)

    def edited(data: dict[str, Any]) -> tuple[list[str], list[str], tuple[str, ...]]:
        began.clear()
        study, changes = Study.create(tmp_path / "study", {"study": {"seeds": [0]}, "base": QUICK, **data})
        run_study(study, Counting(2, len(study.design.cells)))
        study.close()
        rows = compare(read_study(study.directory)[1]).rows
        assert all(row.seeds == (0,) for row in rows)
        return sorted(began), [row.arm for row in rows], changes.removed

    one, two = "algo.clip_coef=0.1", "algo.clip_coef=0.2"
    assert edited({"grid": {"algo.clip_coef": [0.1]}}) == (["CartPole-v1 base seed 0"], ["base"], ())
    assert edited({"grid": {"algo.clip_coef": [0.1, 0.2]}}) == ([f"CartPole-v1 {two} seed 0"], [one, two], ())
    named = {"narrow": {"algo.clip_coef": 0.1}, "wide": {"algo.clip_coef": 0.2}}
    assert edited({"arms": named}) == ([], ["narrow", "wide"], ())
    twins = {"narrow": {"algo.clip_coef": 0.1}, "again": {"algo.clip_coef": 0.1}}
    found = edited({"arms": twins})
    assert found == (["CartPole-v1 again seed 0"], ["narrow", "again"], ("CartPole-v1 wide seed 0",))


def test_a_grid_that_is_edited_says_what_came_and_went(finished: Path) -> None:
    edited = {**DATA, "grid": {"algo.clip_coef": [0.2, 0.3]}}
    study, changes = Study.create(finished, edited)
    study.close()
    assert changes.added == ("CartPole-v1 algo.clip_coef=0.3 seed 0", "CartPole-v1 algo.clip_coef=0.3 seed 1")
    assert changes.removed == ("CartPole-v1 algo.clip_coef=0.1 seed 0", "CartPole-v1 algo.clip_coef=0.1 seed 1")
    assert len([*finished.glob("runs/*clip_coef=0.1*/seed*/summary.json")]) == 2, "their runs are kept"
    study, changes = Study.create(finished, DATA)
    study.close()
    assert [study.status(cell) for cell in study.design.cells] == ["finished"] * 4


def test_going_on_leaves_the_comments_of_a_studys_file(finished: Path) -> None:
    """It is written again only for other contents."""
    text = (finished / "study.toml").read_text()
    try:
        (finished / "study.toml").write_text(f"# two seeds are enough\n{text}")
        for data, kept in ((read_design(finished / "study.toml"), True), ({**DATA, "study": {"seeds": [0]}}, False)):
            Study.create(finished, data)[0].close()
            assert ("# two seeds" in (finished / "study.toml").read_text()) == kept
    finally:
        (finished / "study.toml").write_text(text)


def test_two_processes_do_not_run_one_study(finished: Path) -> None:
    study, _ = Study.create(finished, DATA)
    with pytest.raises(UsageError, match="in use by process"):
        Study.create(finished, DATA)
    study.close()


def test_a_directory_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("…")
    with pytest.raises(UsageError, match="holds no study"):
        Study.create(tmp_path, DATA)


def test_a_failed_cell_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    data = {
        "base": QUICK,
        "arms": {"good": {}, "diverges": {"algo.learning_rate": 1e300}},
    }
    study = go(tmp_path / "study", data)
    good, bad = study.design.cells
    assert [study.status(good), study.status(bad)] == ["finished", "failed"]
    assert "not a finite number" in study.failure(bad)
    found = compare(study.results())
    assert {row.arm: row.unfinished for row in found.rows} == {"good": 0, "diverges": 1}
    assert any("have not finished" in warning for warning in found.warnings)
    began: list[str] = []
    go(tmp_path / "study", data, show=lambda states: began.extend(s.cell.name for s in states if s.status == "running"))
    assert not began, "it is not run again unasked"


def test_a_failure_names_flags_as_the_command_line_has_them(tmp_path: Path) -> None:
    study, _ = Study.create(tmp_path / "study", {"base": QUICK})
    [cell] = study.design.cells
    study.place(cell).mkdir(parents=True)
    (study.place(cell) / "thesis.tex").write_text("…")
    run_study(study, Processes(1, 1))
    study.close()
    assert study.failure(cell).endswith("is not empty and does not hold a run: choose another directory with --out")


def test_a_cell_that_failed_before_it_wrote_anything_counts_as_a_failure(tmp_path: Path) -> None:
    arms = {"good": {}, "bad": {"backbone": "bitnet", "backbone.model": str(tmp_path / "missing.gguf")}}
    study = go(tmp_path / "study", {"base": QUICK, "arms": arms})
    good, bad = study.design.cells
    assert [study.status(good), study.status(bad)] == ["finished", "failed"]
    assert not (study.place(bad) / "config.toml").exists()
    found = compare(study.results(), baseline="bad")
    assert {row.arm: (row.unfinished, row.failure_rate) for row in found.rows} == {"good": (0, 0.0), "bad": (1, 1.0)}
    assert found.differences["bad"]["run.backbone"] == "bitnet"
    assert "CartPole-v1, bad: 1 of 1 runs have not finished" in found.warnings


def test_a_cell_whose_configuration_is_lost_is_trained_again(finished: Path, tmp_path: Path) -> None:
    directory = tmp_path / "study"
    shutil.copytree(finished, directory)
    next(directory.glob("runs/*/seed0/config.toml")).unlink()
    go(directory)
    assert report(directory) == report(finished)


def test_studies_killed_midway_end_like_one_that_was_not(finished: Path, tmp_path: Path) -> None:
    """When the first checkpoint is written, and again when a cell has finished.

    benchmarks/studies_killed.py does the same a hundred times to 24 cells, at random moments.
    """
    directory = tmp_path / "killed"
    code = (
        "import json, sys; from pathlib import Path; sys.path.insert(0, sys.argv[3]);"
        "from small_studies import go; go(Path(sys.argv[1]), json.loads(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(directory), json.dumps(DATA), HELPERS]
    done: dict[Path, int] = {}
    for awaited in ("checkpoints/*.safetensors", "summary.json", None):
        process = subprocess.Popen(command, start_new_session=True)
        if awaited is not None:
            while not [*directory.glob(f"runs/*/seed*/{awaited}")]:
                assert process.poll() is None, "the study has ended before it was killed"
                time.sleep(0.01)
            process.kill()
        assert process.wait() == (-signal.SIGKILL if awaited else 0)
        now = {path: path.stat().st_mtime_ns for path in directory.glob("runs/*/seed*/summary.json")}
        assert done.items() <= now.items(), "a finished cell has run again"
        done = now
    assert report(directory) == report(finished)


def test_a_study_in_a_scripts_background_saves_and_stops(tmp_path: Path) -> None:
    """There SIGINT is ignored, and a worker inherits that: it went on to the end of its cell."""
    code = (
        "import json, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[3]);"
        "signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "from small_studies import go; go(Path(sys.argv[1]), json.loads(sys.argv[2]))"
    )
    directory, endless = tmp_path / "study", {**DATA, "base": {**QUICK, "run": {**QUICK["run"], "steps": 10**8}}}
    command = [sys.executable, "-c", code, str(directory), json.dumps(endless), HELPERS]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        while len([*directory.glob("runs/*/seed*/checkpoints/*.safetensors")]) < 2:
            assert process.poll() is None, "the study has ended before it was stopped"
            time.sleep(0.01)
        process.terminate()
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert f"stopped; continue with: bitrl study {directory}" in said.replace("python -m bitrl", "bitrl")


def test_a_cell_that_starts_while_the_study_is_stopped_stops_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes when its process is there, and before the study has noted it: it went on to its end."""
    start = subprocess.Popen
    workers = []

    def interrupted_start(*arguments: Any, **options: Any) -> Any:
        process = start(*arguments, **options)
        workers.append(process)
        os.kill(os.getpid(), signal.SIGTERM)
        return process

    monkeypatch.setattr("bitrl.core.studies.processes.subprocess.Popen", interrupted_start)
    with pytest.raises(RunStopped, match="stopped; continue with") as stopped:
        go(tmp_path / "study")
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    [worker] = workers
    assert worker.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM), "it was asked to stop, and did not finish"


def test_workers_end_with_the_study_that_started_them(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[2]);"
        "from small_studies import *; s, _ = Study.create(Path(sys.argv[1]), DATA); p = Processes(1, 1);"
        "p.start(s.design.cells[0], s.place(s.design.cells[0]));"
        "print(p._running[0].process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s"), HELPERS], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.communicate()
    for _ in range(200):
        if not Path(f"/proc/{worker}").exists() or "\nState:\tZ" in Path(f"/proc/{worker}/status").read_text():
            return
        time.sleep(0.05)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived the study")


def test_how_far_a_run_is_is_read_as_far_as_it_can_be(tmp_path: Path) -> None:
    """A damaged file is its own cell's matter: the study reads it while others run."""
    rows = ('{"step": 64, "episode_return": 9.5}', '{"step": "many"}', '{"step": NaN, "episode_return": NaN}', "[3]")
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows))
    (tmp_path / "timings.jsonl").write_text('{"seconds": 2.5}\n{"seconds": null}\n{"seconds": "two"}\n')
    assert progress_of(tmp_path) == (64, 9.5, 2.5)


def test_runs_outside_a_study_are_arms_by_what_differs(finished: Path) -> None:
    """The same runs, given as directories: two arms, named for the option that differs."""
    found = compare(read_results(sorted(finished.glob("runs/*"))))
    assert {row.arm: row.seeds for row in found.rows} == {"algo.clip_coef=0.1": (0, 1), "algo.clip_coef=0.2": (0, 1)}
    one = sorted(finished.glob("runs/*/seed0"))
    with pytest.raises(UsageError, match="seed 0 is there twice"):
        compare([*read_results(one), *read_results(one[:1])])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("summary.json", b"{"),
        ("summary.json", b"[]"),
        ("summary.json", b'{"eval": {"mean_return": ""}, "steps": 9}'),
        ("summary.json", b'{"eval": {"mean_return": NaN}, "steps": 9}'),
        ("metrics.jsonl", b"\xff\n{}\n"),
        ("metrics.jsonl", b'{"step": 1, "episode_return": "high"}\n{}\n'),
        ("metrics.jsonl", b'{"step": 1, "episode_return": NaN}\n{}\n'),
        ("config.toml", b""),
        ("config.toml", b"["),
        ("config.toml", b'[run]\nseed = "one"\n'),
    ],
)
def test_a_damaged_file_is_named(finished: Path, tmp_path: Path, name: str, damage: bytes) -> None:
    run = Path(shutil.copytree(next(finished.glob("runs/*/seed0")), tmp_path / "run"))
    (run / name).write_bytes(damage)
    with pytest.raises(UsageError, match=name):
        read_results([run])
