"""Tables, charts and the page, read back by parsers of others."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import os
import re
import shlex
import xml.etree.ElementTree as ElementTree
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from markdown_it import MarkdownIt

from bitrl.core.errors import UsageError
from bitrl.core.studies.charts import Point, line_chart, point_chart, ticks
from bitrl.core.studies.comparison import Comparison, compare, compare_rows
from bitrl.core.studies.curves import mean_curve
from bitrl.core.studies.report import html
from bitrl.core.studies.results import Result
from bitrl.core.studies.tables import comma_separated, latex, markdown, number, tables

SVG = "{http://www.w3.org/2000/svg}"


def result(arm: str, seed: int, value: float | None, task: str = "CartPole-v1") -> Result:
    summary = None
    if value is not None:
        evaluation = {"mean_return": value, "success_rate": 0.5}
        summary = {"eval": evaluation, "steps": 300, "peak_rss_mb": 100.0 + seed, "steps_per_second": 1000.0}
    curve = tuple((100 * n, (value or 1.0) * n / 3) for n in (1, 2, 3))
    where = Path(f"{task}-{arm}-{seed}")
    return Result(where, task, {"run.backbone": arm, "algo.gamma": 0.9}, seed, summary, curve)


RESULTS = [
    *(result("bf16", seed, 100.0 + seed) for seed in range(3)),
    *(result("<b>&_", seed, 50.0 + seed) for seed in range(3)),
    *(result("bf16", seed, -10.0 - seed, "Acrobot-v1") for seed in range(3)),
    *(result("<b>&_", seed, -20.0 - seed, "Acrobot-v1") for seed in range(2)),
]


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare(RESULTS, baseline="backbone=bf16", margin=(0.05, True))


def test_runs_that_never_rise_make_no_arm_fast() -> None:
    """The one of three seeds that rises does so at once; the median seed never does."""
    flat = [attrs.evolve(result("x", seed, 10.0), curve=((100, 10.0), (200, 9.0))) for seed in (1, 2)]
    assert compare([result("x", 0, 10.0), *flat]).rows[0].steps_to_90 is None
    assert compare([result("x", 0, 10.0), flat[0], result("x", 3, 12.0)]).rows[0].steps_to_90 == 300
    assert compare([result("x", 0, 10.0), flat[0]]).rows[0].steps_to_90 is None


def test_ratios_of_rewards_and_costs_and_their_geometric_mean(found: Comparison) -> None:
    rows = {(row.task, row.arm): row for row in found.rows}
    assert rows["CartPole-v1", "backbone=<b>&_"].ratio == pytest.approx(51 / 101)
    assert rows["Acrobot-v1", "backbone=<b>&_"].ratio == pytest.approx(11 / 20.5)
    [overall] = found.overall
    assert overall.ratio == pytest.approx(np.sqrt(51 / 101 * 11 / 20.5))
    assert overall.improvement == 0.0
    assert rows["CartPole-v1", "backbone=<b>&_"].equivalence.verdict == "no"  # type: ignore[union-attr]
    assert rows["CartPole-v1", "backbone=bf16"].ratio is None
    assert [each for each in found.warnings if "2 seeds are too few" in each]


def test_an_arm_that_is_the_baseline_again_has_the_baselines_interquartile_mean() -> None:
    """Of 500, 500, 500, 500 and 0 it is 500, which is 125 % of their mean: no reason to call the arm better."""
    values = [500.0, 500, 500, 500, 0]
    runs = [result(arm, seed, value, task) for arm in "ab" for task in "TU" for seed, value in enumerate(values)]
    [overall] = compare(runs).overall
    assert (overall.ratio, overall.improvement) == (pytest.approx(1.0), 0.5)
    assert overall.interquartile_mean == overall.baseline_interquartile_mean == pytest.approx(1.25)
    assert "| 125.0% | 50.0% |" in markdown([*tables(compare(runs))])


def test_runs_are_told_apart_by_as_few_settings_as_needed() -> None:
    runs = [
        Result(Path(str(n)), "E", {"run.backbone": backbone, "algo.a": a, "algo.b": a * 2}, n, None, ())
        for n, (backbone, a) in enumerate([("x", 1), ("x", 2), ("y", 1)])
    ]
    found = compare(runs)
    assert [row.arm for row in found.rows] == ["backbone=x algo.a=1", "backbone=x algo.a=2", "backbone=y algo.a=1"]


def test_a_setting_that_is_tuned_for_each_environment_is_shown_with_all_its_values() -> None:
    """An arm is one row over all tasks; the value of its first task alone would be wrong in the others."""
    values = {("CartPole-v1", "base"): 0.05, ("Acrobot-v1", "base"): 0.01}
    runs = []
    for task in ("CartPole-v1", "Acrobot-v1"):
        for arm in ("base", "standard"):
            each = attrs.evolve(result("bf16", 0, 1.0, task), label=arm, directory=Path(f"{task}-{arm}"))
            runs.append(attrs.evolve(each, settings={**each.settings, "algo.ent_coef": values.get((task, arm), 0.02)}))
    assert compare(runs).differences == {
        "base": {"algo.ent_coef": "0.05 or 0.01"},
        "standard": {"algo.ent_coef": 0.02},
    }


def test_long_settings_do_not_make_long_names() -> None:
    runs = [Result(Path(str(n)), "E", {"algo.a": "x" * 500 + str(n)}, n, None, ()) for n in range(2)]
    found = compare(runs)
    arms = [row.arm for row in found.rows]
    assert len(set(arms)) == 2
    assert max(map(len, arms)) < 60
    assert max(len(cell) for table in tables(found) for row in table.rows for cell in row) < 60


def test_a_task_without_a_ratio_is_not_left_out_of_the_mean_over_tasks() -> None:
    """The baseline has nothing in one task of five. No ratio there is no reason for a number over the other four."""
    runs = [
        result(arm, seed, 0.0 if (task, arm) == ("A", "zero") else 10.0 + seed, task)
        for task in "ABCDE"
        for arm in ("zero", "other")
        for seed in range(5)
    ]
    [overall] = compare(runs).overall
    assert (overall.tasks, overall.ratio, overall.interquartile_mean) == (5, None, None)
    assert overall.interquartile_mean_interval is None
    [turned] = compare(runs, baseline="backbone=other").overall
    assert turned.ratio == 0.0


def test_runs_of_one_name_that_are_not_alike_are_said() -> None:
    """Two studies may call different arms the same."""
    first, second = (
        attrs.evolve(result("bf16", seed, 1.0), label="base", settings={"run.steps": steps})
        for seed, steps in ((0, 100), (1, 200))
    )
    assert (
        "CartPole-v1, base: its runs are not of one kind: they differ in run.steps" in compare([first, second]).warnings
    )
    assert not [each for each in compare([first]).warnings if "kind" in each]


def test_seeds_that_read_other_models_by_one_name_are_said() -> None:
    """The file was replaced between two runs. A sealed model's digest was its seal before 0.2."""

    def of(seed: int, **features: str) -> Result:
        return attrs.evolve(result("bitnet", seed, 1.0), provenance={"features": features})

    runs = [of(0, model_sha256="seal-one"), of(1, model_sha256="a", model_seal="seal-one"), of(2, model_sha256="b")]
    alike = attrs.evolve(result("bitnet", 3, 1.0), provenance={})
    assert "different models" not in " ".join(compare([*runs[:2], alike]).warnings)
    assert [each for each in compare([*runs, alike]).warnings if "models" in each] == [
        "CartPole-v1, base: its runs read different models by one name: seal-one (seed 0, 1), b (seed 2)"
    ]


def test_a_run_whose_curve_was_lost_is_said() -> None:
    lost = attrs.evolve(result("bf16", 1, 1.0), curve=())
    [warning] = [each for each in compare([result("bf16", 0, 1.0), lost]).warnings if "curve" in each]
    assert warning.startswith("CartPole-v1, base: seed 1 has no learning curve (CartPole-v1-bf16-1/metrics.jsonl)")
    assert not [each for each in compare([lost]).warnings if "curve" in each]  # where no episode ends, nobody has one


def test_a_metric_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="mean_return is nan"):
        compare([result("bf16", 0, math.nan)])


def test_failures_are_runs_that_did_not_finish_or_did_not_learn() -> None:
    flat = Result(Path("flat"), "E", {}, 1, {"eval": {"mean_return": 5.0}, "steps": 1}, ((1, 9.0), (2, 5.0)))
    [row] = compare([result("x", 0, 10.0, "E"), result("x", 1, None, "E")]).rows
    assert (row.failure_rate, row.unfinished) == (0.5, 1)
    assert compare([flat]).rows[0].failure_rate == 1.0


def test_csv_and_markdown_and_latex_hold_the_same_numbers(found: Comparison) -> None:
    shown = [*tables(found)]
    rows = list(csv.reader(io.StringIO(comma_separated(shown))))
    results = next(each for each in shown if each.title.startswith("CartPole-v1: mean return"))
    assert [results.title, *results.rows[1]] in rows
    assert r"| backbone=\<b>&\_ | 3 | 51.0 |" in markdown(shown)
    assert r"backbone=\textless{}b\textgreater{}\&\_ & 3 & 51.0" in latex(shown)


def test_an_arm_may_be_called_anything() -> None:
    name = 'a"b,c |[x] ^2\n~'
    runs = [attrs.evolve(result("bf16", seed, 1.0 + seed), label=name) for seed in range(3)]
    found = compare(runs)
    shown = [*tables(found)]
    page = _Page()
    page.feed(html("t", found, runs, "command"))
    files = {link["download"]: base64.b64decode(link["href"].partition("base64,")[2]).decode() for link in page.links}
    for each in ("curves-CartPole-v1.csv", "memory-CartPole-v1.csv", "latency-CartPole-v1.csv"):
        rows = [*csv.DictReader(io.StringIO(files[each]))]
        assert {row["arm"] for row in rows} == {name}
        assert float(rows[-1]["mean"]) == pytest.approx(2.0)
    assert r'| a"b,c \|[x] ^2 ~ | 3 | 2.0 |' in markdown(shown)
    assert r'a"b,c \textbar{}{[}x] \textasciicircum{}2 \textasciitilde{} & 3 & 2.0' in latex(shown)


@pytest.mark.parametrize(
    "name",
    ["<b>x</b>", "*a* **b**", "_x_ __y__", "`c`", r"a\|b \* \\", "&lt; &#60;", "algo.ent_coef=[64, 64]", "日本 ε"],
)
def test_a_name_is_read_back_from_markdown_as_it_was(name: str) -> None:
    runs = [attrs.evolve(result("bf16", seed, 1.0), label=name) for seed in range(3)]
    page = ElementTree.fromstring(
        f"<page>{MarkdownIt('commonmark').enable('table').render(markdown([*tables(compare(runs))]))}</page>"
    )
    [row] = page.iter("tbody")
    assert row[0][0].text == name
    assert len(row[0][0]) == 0, "no markup"


@pytest.mark.parametrize(
    ("value", "words"), [(0.0004, "0.0004"), (-1.24e-7, "-1e-07"), (0.0, "0.000"), (0.05, "0.050")]
)
def test_a_small_result_is_not_zero(value: float, words: str) -> None:
    assert number(value) == words


def test_a_page_of_two_hundred_arms_is_no_larger_than_others() -> None:
    curve = tuple((2048 * n, 300 * (1 - 0.97**n)) for n in range(1, 150))
    runs = [
        attrs.evolve(
            result(f"bitnet algo.ent_coef={n / 1000}", seed, 300.0 + n + seed),
            curve=curve,
            directory=Path(f"studies/entropy/runs/CartPole-v1_bitnet_algo.ent_coef={n}-01234567/seed{seed}"),
        )
        for n in range(200)
        for seed in range(5)
    ]
    rows = compare_rows(runs, "mean_return", "backbone=bitnet algo.ent_coef=0.0")
    text = html("t", Comparison("mean_return", rows[0].arm, rows, (), {}, ()), runs, "command")
    assert len(text.encode()) <= 1_000_000
    assert "cannot be saved one by one" in text
    assert "base64" not in text


def test_a_page_of_thousands_of_runs_names_the_seeds_of_an_arm_together() -> None:
    runs = [
        attrs.evolve(each, directory=Path("studies/many/runs", f"{each.directory}-0123abcd", f"seed{seed}"))
        for task in range(5)
        for arm in range(8)
        for seed in range(80)
        for each in [result(f"bitnet-{arm}", seed, 300.0 + arm + seed, f"{'A' * 80}Task{task}-v5")]
    ]
    rows = compare_rows(runs, "mean_return", "backbone=bitnet-0")
    text = html("t", Comparison("mean_return", rows[0].arm, rows, (), {}, ()), runs, "command")
    assert len(text.encode()) <= 1_000_000
    assert "<td>0, 1, 2, 3," in text
    assert text.count("bitrl run --config") == 5 * 8


def test_a_page_of_a_directory_that_is_not_utf8_can_be_written() -> None:
    where = Path(os.fsdecode(b"runs-\xff"))
    runs = [attrs.evolve(result("bf16", 0, 1.0), directory=where)]
    text = html(str(where), compare(runs), runs, "command")
    assert text.encode()
    assert shlex.split(unescape(text.partition("bitrl run --config ")[2].partition("<")[0]))


def test_a_run_that_failed_early_is_said_to_end_the_curve_of_its_arm() -> None:
    """And it does not turn the curves of evaluations into those of rollouts, which steps to 90 % are not of."""
    runs = [
        attrs.evolve(result("bf16", seed, 1.0), evaluations=((100, 1.0), (200, 2.0), (300, 3.0))) for seed in range(3)
    ]
    assert "Drawn as far" not in html("t", compare(runs), runs, "command")
    runs[1] = attrs.evolve(runs[1], summary=None, evaluations=runs[1].evaluations[:2])
    runs[2] = attrs.evolve(runs[2], summary=None, evaluations=())
    text = html("t", compare(runs), runs, "command")
    assert "evaluations while training (greedy actions)" in text
    assert "Drawn as far as all runs of an arm have come: base up to step 200." in text


def test_costs_are_of_the_runs_that_have_them() -> None:
    """A run of no steps has no speed; an edited summary.json has perhaps no memory."""
    runs = [result("bf16", seed, 100.0 + seed) for seed in range(3)]
    without = {"eval": {"mean_return": 100.0}, "steps": 0, "steps_per_second": 0.0, "peak_rss_mb": None}
    runs[0] = attrs.evolve(runs[0], summary=without, provenance={"versions": "?"})
    text = html("t", compare(runs), runs, "command")
    page = _Page()
    page.feed(text)
    files = {link["download"]: base64.b64decode(link["href"].partition("base64,")[2]).decode() for link in page.links}
    [latency] = csv.DictReader(io.StringIO(files["latency-CartPole-v1.csv"]))
    [memory] = csv.DictReader(io.StringIO(files["memory-CartPole-v1.csv"]))
    assert (float(latency["x"]), float(memory["x"])) == (1.0, 101.5)
    alone = [attrs.evolve(runs[0], curve=())]
    assert "No run that has finished has both numbers." in html("t", compare(alone), alone, "command")


def test_costs_are_called_by_the_metric_they_are_drawn_against() -> None:
    text = html("t", compare(RESULTS, metric="success_rate", baseline="backbone=bf16"), RESULTS, "command")
    assert 'aria-label="Success rate against memory in CartPole-v1"' in text


def test_runs_in_a_file_of_results_have_no_config_to_repeat(tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text("")
    runs = [attrs.evolve(result("bf16", 0, 1.0), directory=tmp_path / "kept.json" / "arm" / "seed0")]
    text = html("t", compare(runs), runs, "command")
    assert "its settings are in kept.json" in text
    assert "config.toml<" not in text


def test_a_chart_is_well_formed_and_its_points_are_where_the_numbers_say() -> None:
    curve = mean_curve("an <arm>", RESULTS[:3])
    assert curve is not None
    assert curve.steps == (100, 200, 300)
    assert curve.mean == pytest.approx((101 / 3, 202 / 3, 101.0))
    picture = ElementTree.fromstring(line_chart("title & more", "steps", "return", [curve]))
    [line] = [
        path for path in picture.iter(f"{SVG}path") if "line" in path.get("class", "") and "L" in path.get("d", "")
    ]
    points = np.array([[float(x) for x in pair.split()] for pair in line.get("d", "")[1:].split("L")])
    assert points[1] - points[0] == pytest.approx(points[2] - points[1], abs=0.11)
    assert points[0, 1] > points[2, 1], "upwards is better"
    dot = ElementTree.fromstring(point_chart("t", "x", "y", [Point("a", 1.0, 2.0, (1.0, 3.0))]))
    assert len([*dot.iter(f"{SVG}circle")]) == 1
    odd = line_chart("t", "x", "y", [attrs.evolve(curve, label="a\x00b\x1bc")])
    assert r"a\x00b\x1bc" in [text.text for text in ElementTree.fromstring(odd).iter(f"{SVG}text")]
    for empty in (line_chart("t", "x", "y", []), point_chart("t", "x", "y", [])):
        ElementTree.fromstring(empty)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-200, -85.2), (0, 1e6), (0.03, 0.031), (5, 5)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[dict[str, Any]] = []
        self.asked: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        own = dict(attributes)
        self.asked += [str(own[name]) for name in ("src", "href") if name in own]
        if tag == "a":
            self.links.append(own)
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_asks_for_nothing_and_its_files_are_inside(found: Comparison) -> None:
    text = html("A & B", found, RESULTS, "bitrl report runs -o page.html")
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert page.asked
    assert all(each.startswith("data:") for each in page.asked), "it opens with the network blocked"
    assert "url(" not in text
    assert "@import" not in text
    assert "<b>&_" not in text, "what runs are called is escaped"
    assert len(text.encode()) < 1_000_000
    files = {link["download"]: base64.b64decode(link["href"].partition("base64,")[2]).decode() for link in page.links}
    ElementTree.fromstring(files["curves-CartPole-v1.svg"])
    rows = list(csv.DictReader(io.StringIO(files["curves-CartPole-v1.csv"])))
    assert (rows[0]["arm"], rows[0]["step"]) == ("backbone=bf16", "100")
    assert float(rows[2]["mean"]) == pytest.approx(101.0)
    assert all(re.fullmatch(r"[\w.-]+", name) for name in files)


def test_a_comparison_is_plain_data(found: Comparison) -> None:
    assert json.loads(json.dumps(found.as_dict()))["metric"] == "mean_return"
