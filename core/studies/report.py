"""A comparison as one HTML file that needs no network: curves, tables, costs, and what made each number."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from bitrl.core.studies.charts import COLOURS, Point, escaped, line_chart, point_chart
from bitrl.core.studies.comparison import Comparison, label_runs
from bitrl.core.studies.curves import POINTS, Curve, evaluated, mean_curve
from bitrl.core.studies.results import Result
from bitrl.core.studies.tables import Table, comma_separated, csv_lines, tables
from bitrl.core.terminal import shell_word

DARK = ("#56b4e9", "#ff9f5a", "#35c39a", "#e39bd0", "#e6c229", "#a3cfe8", "#bbbbbb", "#ff8d8d")

MOST = 1_000_000
"""Bytes of the page, which is sent by mail and opened on phones."""
CURVES, FEWEST = 3_600, 12
"""Points of all curves together, and of one at least."""
TOO_LARGE = (
    "Its charts and tables cannot be saved one by one: with them the page would be larger than 1 MB. "
    "<code>bitrl report --csv</code> writes the tables, <code>bitrl plot</code> the curves."
)

STYLE = (
    ":root{color-scheme:light dark;--paper:#ffffff;--ink:#1a1a1a;--soft:#555555;--grid:#dddddd;--shade:#f4f4f4;"
    "--link:#005a9c;" + "".join(f"--c{n}:{colour};" for n, colour in enumerate(COLOURS)) + "}"
    "@media(prefers-color-scheme:dark){:root{--paper:#16181b;--ink:#ececec;--soft:#b5b5b5;--grid:#3a3d42;"
    "--shade:#202327;--link:#8cc8ff;" + "".join(f"--c{n}:{colour};" for n, colour in enumerate(DARK)) + "}}"
    """
body{margin:0 auto;max-width:72rem;padding:1rem;font:16px/1.5 system-ui,sans-serif}
body{background:var(--paper);color:var(--ink)}
h1{font-size:1.7rem;margin:.5rem 0}h2{font-size:1.3rem;margin:2rem 0 .5rem}h3{font-size:1.05rem;margin:1.5rem 0 .5rem}
a{color:var(--link)}p{max-width:48rem}.soft{color:var(--soft)}
figure{margin:1rem 0}figure svg{width:100%;max-width:56rem;height:auto;display:block}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(20rem,100%),1fr));gap:0 1.5rem}
figcaption{color:var(--soft);font-size:.9rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}
th:first-child,td:first-child{text-align:left}thead th{background:var(--shade)}
code,pre{font:.85rem ui-monospace,monospace}pre{background:var(--shade);padding:.6rem;overflow-x:auto}
.warning{border-left:4px solid var(--c1);padding:.2rem .8rem;margin:.5rem 0}
@media print{figure svg{max-width:36rem}}
@media print{body{max-width:none;padding:0}.wide{overflow:visible}table{font-size:.7rem}th,td{white-space:normal}
figure,table{break-inside:avoid}h2,h3{break-after:avoid}.downloads{display:none}}
"""
)


def html(title: str, found: Comparison, results: Sequence[Result], command: str) -> str:
    """The page.

    Args:
        title: of the study.
        found: the comparison of `results`.
        results: its runs.
        command: what was run to make the page.
    """
    labels = label_runs(results)
    body = [
        f"<h1>{escaped(title)}</h1>",
        f'<p class="soft">{_about(found, results)}</p>',
        *(f'<p class="warning">{escaped(warning)}</p>' for warning in found.warnings),
    ]
    points = min(max(CURVES // max(len(found.rows), 1), FEWEST), POINTS)
    shown = list(tables(found))
    if shown and shown[0].title == "What differs":
        body += ["<h2>What differs</h2>", _table(shown[0])]
    for task in dict.fromkeys(result.task for result in results):
        body.append(f"<h2>{escaped(task)}</h2>")
        body += _curves(task, [result for result in results if result.task == task], labels, points)
        body += [
            f"<h3>{escaped(each.title)}</h3>{_table(each)}" for each in shown if each.title.startswith(f"{task}: ")
        ]
        costs = _costs(task, found, [result for result in results if result.task == task], labels)
        body.append(f'<div class="pair">{"".join(costs)}</div>')
    for each in shown:
        if each.title.startswith("All tasks"):
            body += [f"<h2>{escaped(each.title)}</h2>", _table(each)]
    text = _page(title, [*body, *_made_by(results, labels, command), _words()])
    for each_run in (True, False):
        if len(text.encode()) > MOST:
            end = [*_made_by(results, labels, command, each_run), _words(), f"<p>{TOO_LARGE}</p>"]
            text = re.sub(r'<(span|p) class="(soft )?downloads">.*?</\1>', "", _page(title, [*body, *end]))
    return text


def _page(title: str, body: Sequence[str]) -> str:
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width,initial-scale=1"><title>{escaped(title)}</title><style>{STYLE}</style></head>'
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _about(found: Comparison, results: Sequence[Result]) -> str:
    tasks = len({row.task for row in found.rows})
    arms = len({row.arm for row in found.rows})
    done = sum(result.summary is not None for result in results)
    return escaped(
        f"{arms} {'arm' if arms == 1 else 'arms'} in {tasks} {'task' if tasks == 1 else 'tasks'}, {done} of "
        f"{len(results)} runs finished; results are the evaluation's {found.metric.replace('_', ' ')}, with greedy "
        f"actions; baseline: {found.baseline}."
    )


def _curves(task: str, results: Sequence[Result], labels: Mapping[Path, str], points: int) -> Iterator[str]:
    arms = list(dict.fromkeys(labels[result.directory] for result in results))
    greedy = evaluated(results)
    curves = [
        mean_curve(arm, [each for each in results if labels[each.directory] == arm], greedy, points) for arm in arms
    ]
    known = [curve for curve in curves if curve is not None]
    returns = "return of evaluations" if greedy else "return of rollouts"
    chart = line_chart(f"Learning curves in {task}", "environment steps", returns, known)
    how = "evaluations while training (greedy actions)" if greedy else "rollouts (sampled actions)"
    caption = f"Mean over seeds of the returns of {how}, with its 95 % interval (Student's t)."
    last: dict[str, int] = {}
    for each in results:
        if rows := each.evaluations if greedy else each.curve:
            last[labels[each.directory]] = max(rows[-1][0], last.get(labels[each.directory], 0))
    if cut := [f"{each.label} up to step {each.steps[-1]:,}" for each in known if each.steps[-1] < last[each.label]]:
        caption += f" Drawn as far as all runs of an arm have come: {', '.join(cut)}."
    yield _figure(chart, caption, f"curves-{task}", _curves_csv(known))


def _curves_csv(curves: Sequence[Curve]) -> str:
    rows: list[Sequence[object]] = [("arm", "step", "mean", "low", "high")]
    for curve in curves:
        empty = ("",) * len(curve.steps)
        for row in zip(curve.steps, curve.mean, curve.low or empty, curve.high or empty, strict=True):
            rows.append((curve.label, *row))
    return csv_lines(rows)


def _costs(task: str, found: Comparison, results: Sequence[Result], labels: Mapping[Path, str]) -> Iterator[str]:
    """Return against memory, and against the time of a training step."""
    rows = {row.arm: row for row in found.rows if row.task == task and row.mean is not None}
    reads: dict[str, tuple[str, str, Callable[[float], float]]] = {
        "memory": ("peak memory of the process, MB", "peak_rss_mb", lambda found: found),
        "latency": ("milliseconds of training per environment step", "steps_per_second", lambda found: 1e3 / found),
    }
    metric = found.metric.replace("_", " ")
    for name, (unit, number, cost) in reads.items():
        points: list[Point] = []
        lines: list[Sequence[object]] = [("arm", "x", "mean", "low", "high")]
        for arm, row in rows.items():
            measured = [each.summary.get(number) for each in results if labels[each.directory] == arm and each.summary]
            # A run of no steps has no speed, one whose file was edited perhaps no number.
            values = [cost(each) for each in measured if isinstance(each, (int, float)) and 0 < each < math.inf]
            if not values or row.mean is None:
                continue
            points.append(Point(arm, float(np.median(values)), row.mean, row.t_interval))
            lines.append((arm, points[-1].x, row.mean, *(row.t_interval or ("", ""))))
        chart = point_chart(f"{metric.capitalize()} against {name} in {task}", unit, metric, points)
        caption = f"The {metric} with its 95 % interval, against {name} (median over seeds)."
        yield _figure(chart, caption, f"{name}-{task}", csv_lines(lines))


def _figure(svg: str, caption: str, name: str, data: str) -> str:
    links = (
        f"{_download(f'{name}.svg', 'image/svg+xml', svg, 'SVG')} · {_download(f'{name}.csv', 'text/csv', data, 'CSV')}"
    )
    return f'<figure>{svg}<figcaption>{escaped(caption)} <span class="downloads">{links}</span></figcaption></figure>'


def _download(name: str, kind: str, text: str, words: str) -> str:
    encoded = base64.b64encode(text.encode()).decode()
    safe = "".join(letter if letter.isalnum() or letter in ".-" else "-" for letter in name)
    return f'<a download="{safe}" href="data:{kind};base64,{encoded}" aria-label="{escaped(name)}">{words}</a>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escaped(each)}</th>' for each in table.headings)
    rows = "".join(
        f'<tr><th scope="row">{escaped(row[0])}</th>{"".join(f"<td>{escaped(cell)}</td>" for cell in row[1:])}</tr>'
        for row in table.rows
    )
    label = escaped(table.title)
    link = _download(f"{table.title}.csv", "text/csv", comma_separated([table]), "CSV")
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div><p class="soft downloads">{link}</p>'
    )


def _made_by(
    results: Sequence[Result], labels: Mapping[Path, str], command: str, each_run: bool = True
) -> Iterator[str]:
    """The command and commit behind every number; unless of `each_run`, a row for the seeds of an arm."""
    yield f"<h2>What made these numbers</h2><p>This page:</p><pre>{escaped(command)}</pre>"
    yield "<p>Its runs, each repeated from its own config.toml:</p>"
    rows: dict[tuple[str, str, str, str, Path | None], list[Result]] = {}
    for result in results:
        commit = str(result.provenance.get("git_commit", "–"))[:12]
        versions = result.provenance.get("versions")
        version = str(versions.get("bitrl", "–")) if isinstance(versions, Mapping) else "–"
        row = (labels[result.directory], result.task, commit, version, result.directory if each_run else None)
        rows.setdefault(row, []).append(result)
    shown = [
        (arm, task, ", ".join(str(each.seed) for each in group), commit, version, _again(group[0]))
        for (arm, task, commit, version, _), group in rows.items()
    ]
    headings = ("arm", "task", "seed", "commit", "bitrl", "command" if each_run else "command of the first seed")
    yield _table(Table("Runs", headings, tuple(shown)))


def _again(result: Result) -> str:
    """The command that repeats a run; of one in a file of results, which has its settings, where these are."""
    if file := next((each for each in result.directory.parents if each.is_file()), None):
        return f"its settings are in {file.name}"
    return f"bitrl run --config {shell_word(f'{result.directory.as_posix()}/config.toml')}"


def _words() -> str:
    return (
        "<h2>How to read it</h2><p>IQM is the mean of the middle half of the seeds. A ratio is of means; above 100 % "
        "is better, also where returns are costs. P(better) is the probability that a run of the arm is better than "
        "one of the baseline. “Equivalent” is decided by two one-sided tests at 5 %; “undecided” is neither. With few "
        "seeds bootstrap intervals are too narrow: Student's t stands beside them.</p>"
    )
