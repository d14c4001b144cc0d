"""The paper's claims are judged as a reader would judge the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bitrl.core.studies.design import build_design, read_design
from bitrl.core.studies.paper import claims
from bitrl.core.studies.paper.claims import CLAIMS, SIX, STUDIES, Evidence, judged, side
from bitrl.core.studies.paper.sources import analysis, evidence, files
from bitrl.core.studies.results import Result


def runs(
    arm: str, values: Sequence[float], task: str = "CartPole-v1", first: float = -1e9, half: int = 100
) -> list[Result]:
    """Runs of an arm, whose curves start at `first`, and are at their best at 2·half steps."""
    return [
        Result(
            directory=Path(f"{task}/{arm}/seed{seed}"),
            task=task,
            settings={},
            seed=seed,
            summary={"steps": 1000, "eval": {"mean_return": value, "success_rate": value}},
            curve=((half, first), (2 * half, value), (1000, value)),
            label=arm,
        )
        for seed, value in enumerate(values)
    ]


def classic(*groups: list[Result]) -> Evidence:
    return Evidence({"classic": [each for group in groups for each in group]})


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((2.0, 3.0), "reproduced"), ((1.0, 3.0), "undecided"), ((1.0, 1.9), "refuted"), (None, "undecided")],
)
def test_a_claim_is_decided_by_the_side_of_an_interval(interval: tuple[float, float] | None, verdict: str) -> None:
    assert side(interval, 2.0) == verdict


def test_a_return_is_reached_by_its_whole_interval_and_not_by_one_seed() -> None:
    reaches = claims.reaches("classic", "CartPole-v1", 476)
    assert reaches(classic(runs("bitnet", [490, 492, 491]))).verdict == "reproduced"
    assert reaches(classic(runs("bitnet", [400, 402, 401]))).verdict == "refuted"
    assert reaches(classic(runs("bitnet", [470, 490, 480]))).verdict == "undecided"
    one = reaches(classic(runs("bitnet", [500])))
    assert (one.verdict, one.measured) == ("undecided", "500.0, 1 seed")
    assert reaches(classic(runs("bf16", [490, 492, 491]))).verdict == "not measured"


def test_ratios_of_costs_are_turned_so_that_more_is_better() -> None:
    keeps = claims.keeps("classic", "Acrobot-v1", "bitnet", "bf16", 0.9)
    costs, others = runs("bitnet", [-80, -81, -82], "Acrobot-v1"), runs("bf16", [-100, -101, -102], "Acrobot-v1")
    found = keeps(classic(costs, others))
    assert found.value == pytest.approx(101 / 81)
    assert found.verdict == "reproduced"


def test_fewer_than_three_seeds_beside_it_decide_nothing() -> None:
    keeps = claims.keeps("classic", "Acrobot-v1", "bitnet", "bf16", 0.9)
    arm, two = runs("bitnet", [-80, -81, -82], "Acrobot-v1"), runs("bf16", [-100, -101], "Acrobot-v1")
    found = keeps(classic(arm, two))
    assert found.verdict == "undecided"
    assert found.measured.endswith("of bf16, 3 seeds beside 2")


def test_below_is_the_other_way_round() -> None:
    below = claims.below("classic", "CartPole-v1", "value-only", "bf16")
    worse = classic(runs("value-only", [80, 81, 80]), runs("bf16", [100, 101, 100]))
    assert below(worse).verdict == "reproduced"
    better = classic(runs("value-only", [120, 121, 120]), runs("bf16", [100, 101, 100]))
    assert below(better).verdict == "refuted"


def test_failures_are_counted_with_their_exact_interval() -> None:
    fails = claims.fails("classic", "CartPole-v1", "bitnet", 0.8)
    none = fails(classic(runs("bitnet", [10.0, 11.0, 12.0], first=0.0)))
    assert none.verdict == "refuted"
    assert none.interval == pytest.approx((0.0, 1 - 0.025 ** (1 / 3)))  # the rule of three's exact form
    assert fails(classic(runs("bitnet", [10.0] * 6, first=20.0))).verdict == "reproduced"
    half = [*runs("bitnet", [10.0] * 2, first=20.0), *runs("bitnet", [1.0] * 4, first=0.0)[2:]]
    assert fails(classic(half)).verdict == "undecided"


def test_the_geometric_mean_over_tasks_of_known_ratios() -> None:
    results = []
    for task, ratio in zip(STUDIES["classic"], (0.5, 2.0, 1.0), strict=True):
        results += [*runs("bitnet", [ratio * 100] * 3, task), *runs("bf16", [100.0] * 3, task)]
    found = claims.overall("bitnet", "bf16", 0.9)(Evidence({"classic": results}))
    assert found.value == pytest.approx(1.0)
    assert found.interval == pytest.approx((1.0, 1.0))
    assert found.verdict == "reproduced"
    assert claims.equal_overall("bitnet", "bf16", 0.05)(Evidence({"classic": results})).verdict == "reproduced"
    worst = claims.every_task("bitnet", "bf16", 0.85)(Evidence({"classic": results}))
    assert (worst.value, worst.verdict) == (pytest.approx(0.5), "refuted")


def test_the_steps_to_ninety_per_cent_are_compared() -> None:
    slow, quick = runs("bitnet", [10.0] * 3, first=0.0, half=100), runs("bf16", [10.0] * 3, first=0.0, half=50)
    found = claims.slower("bitnet", "bf16")(classic(slow, quick))
    assert (found.value, found.verdict) == (pytest.approx(2.0), "reproduced")


def test_every_claim_is_judged_with_and_without_results() -> None:
    assert {judgement.verdict for _, judgement in judged(Evidence({}))} == {"not measured"}
    everything = {
        study: [
            each
            for task in tasks
            for arm, values in {
                "bf16": [1.0, 1.1],
                "bitnet": [1.0, 1.2],
                "hybrid": [1.0, 1.1],
                "random": [0.4, 0.5],
                "mlp-words": [0.4, 0.5],
            }.items()
            for each in runs(arm, values, task)
        ]
        for study, tasks in STUDIES.items()
    }
    found = judged(Evidence(everything, analysis()))
    missing = {claim.id for claim, judgement in found if judgement.verdict == "not measured"}
    assert missing == {"value-only", "no-grad-clip", "standard-ppo", "edge"}


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((1.8, 2.3), "reproduced"), ((0.9, 2.5), "undecided"), ((0.8, 1.4), "refuted")],
)
def test_an_exponent_is_held_against_its_interval(interval: tuple[float, float], verdict: str) -> None:
    fit = {"exponent": sum(interval) / 2, "interval": list(interval), "points": 9}
    record = {"fits": [{"family": "rounded", "bias": None}, {"family": "all", "bias": fit}]}
    assert claims.exponent("bias", 2.0)(Evidence({}, record)).verdict == verdict
    record["fits"][1]["bias"] = None
    assert claims.exponent("bias", 2.0)(Evidence({}, record)).verdict == "undecided"


def test_errors_of_values_refute_the_bound_only_if_they_grow_faster() -> None:
    def record(*intervals: tuple[float, float]) -> dict[str, Any]:
        growths = [{"exponent": sum(each) / 2, "interval": list(each)} for each in intervals]
        rows = enumerate((*growths, None))
        return {"precisions": [{"name": f"int{n}", "values": {"growth": growth}} for n, growth in rows]}

    assert claims.value_growth(Evidence({}, record((1.2, 1.7), (1.1, 1.9)))).verdict == "refuted"
    assert claims.value_growth(Evidence({}, record((0.2, 0.7), (0.3, 0.9)))).verdict == "undecided"  # it is a bound
    assert claims.value_growth(Evidence({}, record((0.2, 0.7), (0.8, 1.2)))).verdict == "undecided"
    assert claims.value_growth(Evidence({}, record())).verdict == "undecided"


def test_every_study_can_be_composed_and_has_the_arms_that_are_judged() -> None:
    designs = {name: build_design(read_design(file)) for name, file in files().items()}
    assert {claim.study for claim in CLAIMS} - {None, "analysis"} <= designs.keys()
    for study, task in SIX:
        labels = {arm.label for arm in designs[study].arms if arm.env == task}
        assert {"bitnet", "bf16", "hybrid", "int8", "int4", "random", "mlp-words"} <= labels


def test_what_is_recorded_with_the_package_can_be_read_and_is_of_its_studies(tmp_path: Path) -> None:
    found, own = evidence(tmp_path)
    assert own == []
    for name, results in found.items():
        design = build_design(read_design(files()[name]))
        assert {(each.task, each.label) for each in results} <= {(arm.env, arm.label) for arm in design.arms}
        assert all(each.provenance["git_commit"] for each in results)
