"""The report in a browser: accessible, and fitting screens. Needs Chromium, and axe-core of npm in build/axe."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import AXE, needs_browser, said_in_browser
from test_report import RESULTS

from bitrl.core.studies.charts import WIDTH, Point, point_chart
from bitrl.core.studies.comparison import compare
from bitrl.core.studies.report import html

pytestmark = needs_browser

MEASURE = """
<script>
axe.run(document, {rules: {"region": {enabled: true}}}).then(found => {
  const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  const facts = {
    violations: found.violations.map(v => v.id + ": " + v.nodes.map(n => n.target).join(" ")),
    passes: found.passes.length, wide: wide, charts: document.querySelectorAll("svg[role=img]").length,
    dark: getComputedStyle(document.body).backgroundColor,
  };
  document.body.innerHTML = "";
  document.body.setAttribute("data-facts", JSON.stringify(facts));
});
</script>
"""


def facts_in_browser(page: str, folder: Path, width: int, *flags: str) -> dict[str, object]:
    """What axe-core and the layout say, in a window of this width; nothing outside the file can be reached."""
    file = folder / "page.html"
    script = f"<script>{AXE.read_text(encoding='utf-8')}</script>{MEASURE}"
    file.write_text(page.replace("</body>", f"{script}</body>"), encoding="utf-8")
    return said_in_browser(file.as_uri(), folder, width, "--proxy-server=127.0.0.1:1", *flags)


@pytest.mark.parametrize(
    ("width", "flags", "paper"),
    [
        (1280, (), "rgb(255, 255, 255)"),
        (1280, ("--blink-settings=preferredColorScheme=0",), "rgb(22, 24, 27)"),
        (500, (), "rgb(255, 255, 255)"),
    ],
    ids=["desktop", "dark", "phone"],
)
def test_the_page_is_accessible_and_fits(tmp_path: Path, width: int, flags: tuple[str, ...], paper: str) -> None:
    found = compare(RESULTS, baseline="backbone=bf16", margin=(0.05, True))
    facts = facts_in_browser(html("A study", found, RESULTS, "bitrl report"), tmp_path, width, *flags)
    assert facts["violations"] == []
    assert int(str(facts["passes"])) > 15
    assert facts["charts"] == 6
    assert not facts["wide"], "the page itself does not scroll sideways; wide tables do"
    assert facts["dark"] == paper


OVERLAPS = """
<script>
const boxes = [...document.querySelectorAll("svg text")].map(each => each.getBBox());
const apart = (a, b) => a.x + a.width <= b.x || b.x + b.width <= a.x || Math.abs(a.y - b.y) > 15;
const legend = boxes.slice(-LABELS);
const facts = {
  overlaps: legend.flatMap((a, i) => legend.slice(i + 1).filter(b => !apart(a, b))).length,
  right: Math.max(...legend.map(box => box.x + box.width)),
};
document.body.setAttribute("data-facts", JSON.stringify(facts));
</script>
"""


@pytest.mark.parametrize("width", [1280, 500], ids=["desktop", "phone"])
@pytest.mark.parametrize("label", ["algo.rollout=int4 algo.correction=none", "algo.rollout=int4, layers=12"])
def test_legends_of_long_names_are_read(tmp_path: Path, width: int, label: str) -> None:
    """Names of a grid's arms stand beside each other, or beneath, and end where the picture does."""
    labels = [f"{label[:-1]}{number}" for number in range(5)]
    chart = point_chart("t", "x", "y", [Point(each, 1.0, 2.0) for each in labels])
    file = tmp_path / "page.html"
    head = '<!DOCTYPE html><html><head><meta name="viewport" content="width=device-width"></head><body>'
    file.write_text(f"{head}{chart}{OVERLAPS.replace('LABELS', '5')}</body></html>", encoding="utf-8")
    facts = said_in_browser(file.as_uri(), tmp_path, width)
    assert facts["overlaps"] == 0
    assert float(str(facts["right"])) <= WIDTH


def test_a_page_that_is_not_accessible_is_found(tmp_path: Path) -> None:
    bad = "<!DOCTYPE html><html><head></head><body><img src='data:,'><a href='#'></a></body></html>"
    assert facts_in_browser(bad, tmp_path, 800)["violations"]
