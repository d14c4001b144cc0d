"""The figures on the pages are the measured ones, and every result says what made it."""

import importlib.util
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_figures_are_those_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location("figures", ROOT / "benchmarks" / "figures.py")
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    for page, lines in (
        ("results.md", figures.figures()),
        ("starter.md", figures.starter_figures()),
        ("language-models.md", figures.language_figures()),
        ("paper.md", figures.paper_figures()),
    ):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        assert text.split(figures.START)[1].split(figures.END)[0] == lines, page


def test_the_readme_names_the_claims_that_do_not_hold():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8").partition("## Questions")[0]
    refuted = re.findall(r"^\| (.*) \| refuted \|", page, re.MULTILINE)
    assert refuted
    assert re.findall("“(.*?)”", readme.partition("Refuted so far")[2].partition("[Architecture]")[0]) == refuted


def test_every_result_says_what_made_it():
    results = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert results
    for path in results:
        record = json.loads(path.read_text(encoding="utf-8"))
        assert {"command", "commit", "versions", "processor", "results"} <= set(record), path.name
        assert not re.search(r"(^|[ \"'])/", record["command"]), f"{path.name} names an absolute path"
