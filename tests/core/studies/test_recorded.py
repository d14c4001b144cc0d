"""Results in one file are the results of the runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from bitrl.core.errors import UsageError
from bitrl.core.studies.comparison import compare
from bitrl.core.studies.recorded import POINTS, merged, read_recorded, write_recorded
from bitrl.core.studies.results import Result
from bitrl.core.studies.statistics import steps_to
from bitrl.core.studies.study import read_study

RESULT = Result(Path("a/b/arm/seed0"), "Task-v0", {"run.steps": 9}, 0, {"steps": 9, "eval": {"mean_return": 1.5}}, ())


def test_what_is_said_about_a_study_is_said_about_its_file(finished: Path, tmp_path: Path) -> None:
    results = read_study(finished)[1]
    write_recorded(results, tmp_path / "study.json", "algo.clip_coef=0.2")
    recorded, baseline = read_recorded(tmp_path / "study.json")
    assert baseline == "algo.clip_coef=0.2"
    for found, result in zip(recorded, results, strict=True):
        assert (found.label, found.settings, found.provenance) == (result.label, result.settings, result.provenance)
        assert np.array(found.curve) == pytest.approx(np.array(result.curve), rel=1e-5)
    assert compare(recorded).as_dict() == compare(results).as_dict()
    assert str(finished) not in (tmp_path / "study.json").read_text()


def test_a_long_curve_keeps_its_ends_and_every_nth_point(tmp_path: Path) -> None:
    curve = tuple((10 * n, float(n)) for n in range(5 * POINTS))
    write_recorded([attrs.evolve(RESULT, curve=curve)], tmp_path / "long.json")
    ((found,), _) = read_recorded(tmp_path / "long.json")
    assert len(found.curve) == POINTS + 1, "also the first of 90 % of the way"
    assert (found.curve[0], found.curve[-1]) == (curve[0], curve[-1])
    assert set(found.curve) <= set(curve)


def test_a_files_steps_to_90_percent_are_those_of_its_runs(tmp_path: Path) -> None:
    """The best of many noisy rollouts is rarely among every fifth of them."""
    noise = np.random.default_rng(0).normal(0, 5, (20, 1000))
    curves = [tuple((10 * n, float(n / 10 + own[n])) for n in range(1000)) for own in noise]
    runs = [attrs.evolve(RESULT, curve=curve, seed=n) for n, curve in enumerate(curves)]
    write_recorded([attrs.evolve(run, directory=Path(f"a/seed{run.seed}")) for run in runs], tmp_path / "noisy.json")
    for found, run in zip(read_recorded(tmp_path / "noisy.json")[0], runs, strict=True):
        assert steps_to(found.curve) == steps_to(run.curve)


def test_runs_whose_directories_end_alike_stay_apart(tmp_path: Path) -> None:
    """`a/runs/x` and `b/runs/x`: called the same, the first would be shown as the second."""
    runs = [
        Result(Path(place, "runs/x"), "Task-v0", {"algo.gamma": gamma}, seed, RESULT.summary, ())
        for seed, (place, gamma) in enumerate((("a", 0.9), ("b", 0.8)))
    ]
    write_recorded(runs, tmp_path / "both.json")
    found = compare(read_recorded(tmp_path / "both.json")[0])
    assert [(row.arm, row.seeds) for row in found.rows] == [("algo.gamma=0.9", (0,)), ("algo.gamma=0.8", (1,))]


def test_a_later_run_replaces_the_same_one() -> None:
    again = attrs.evolve(RESULT, summary={"steps": 9, "eval": {"mean_return": 2.0}})
    other = attrs.evolve(RESULT, seed=1)
    assert merged([RESULT, other], [again]) == [again, other]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "damaged: expected JSON"),
        ("[]", "no file of results"),
        ('{"format": "other"}', "no file of results"),
        ('{"format": "bitrl results", "version": 99}', "update bitrl"),
        ('{"format": "bitrl results", "version": 1, "baseline": null, "arms": [{"runs": [{}]}]}', "damaged: KeyError"),
        ('{"format": "bitrl results", "version": 1, "baseline": null, "arms": 3}', "damaged: TypeError"),
    ],
)
def test_a_damaged_file_is_named(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=words) as error:
        read_recorded(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data["arms"][0]["runs"][0].update(curve=[[math.inf, 2.0]]),
        lambda data: data["arms"][0]["runs"][0].update(curve=[[1, math.nan], [2, 3.0]]),
        lambda data: data["arms"][0].update(label=7),
        lambda data: data.update(baseline=["mlp"]),
    ],
)
def test_what_is_no_number_or_no_text_is_damage(damage: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    write_recorded([RESULT], tmp_path / "results.json")
    data = json.loads((tmp_path / "results.json").read_text())
    damage(data)
    (tmp_path / "results.json").write_text(json.dumps(data))
    with pytest.raises(UsageError, match=r"results\.json: damaged"):
        read_recorded(tmp_path / "results.json")


def test_a_summary_without_an_evaluation_is_damaged(tmp_path: Path) -> None:
    write_recorded([RESULT], tmp_path / "results.json")
    data = json.loads((tmp_path / "results.json").read_text())
    data["arms"][0]["runs"][0]["summary"] = {"steps": 9, "eval": 3}
    (tmp_path / "results.json").write_text(json.dumps(data))
    with pytest.raises(UsageError, match="summary of arm/seed0"):
        read_recorded(tmp_path / "results.json")
