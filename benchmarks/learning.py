"""Trains agents in several environments, on several backbones, with several seeds, and tabulates their returns.

    python benchmarks/learning.py --env CartPole-v1 --env Acrobot-v1 --env MountainCar-v0 \\
        --backbone bitnet --backbone bf16 --backbone bitnet/int8

`bitnet/int8` is a policy that reads bitnet and a critic that reads int8. Whatever else is given goes to `bitrl run`
(-o algo.gamma=0.98). Each seed is a process of its own, --jobs of them at a time, on one thread each.

Every combination has a file, results/learning-….json, written anew as each seed finishes: started again, this trains
only what is missing, or was made with other settings or another model. More than one combination also make
results/NAME.json and NAME.md, the table. The learning curves are drawn as NAME.png.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import tomli_w
from record import RESULTS, save

from bitrl.core.config import parse_assignments, resolve
from bitrl.core.runs.parts import build

# Student's t for a 95 % interval with n − 1 degrees of freedom.
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}

REFERENCE = "bf16"
"""The backbone that the others' returns are compared with."""

RESAMPLES = 10_000


@attrs.frozen
class Cell:
    """One combination: an environment and the backbones. `backbone` is "policy's" or "policy's/critic's"."""

    env: str
    backbone: str
    serializer: str | None
    options: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its file."""
        return f"learning-{self.env}-{self.backbone.replace('/', '-')}-{self.config().run.serializer}"

    def config(self) -> Any:
        """The resolved configuration, each backbone on one thread unless the options say otherwise."""
        values: dict[str, dict[str, Any]] = {**parse_assignments(self.options)}
        typed = {part: frozenset(section) for part, section in values.items()}
        policy, _, critic = self.backbone.partition("/")
        named = {"env": self.env, "backbone": policy, "critic_backbone": critic, "serializer": self.serializer}
        values["run"] = {**values.get("run", {}), **{name: value for name, value in named.items() if value}}
        config = resolve(values, typed)
        for part in ("backbone", "critic_backbone"):
            if hasattr(getattr(config, f"{part}_options", None), "threads"):
                values[part] = {"threads": 1, **values.get(part, {})}
        return resolve(values, typed)

    def settings(self) -> dict[str, Any]:
        """All that its results depend on but the seed: every option, and which model files are read."""
        config = self.config()
        reader = build(config).reader
        settings = {
            "config": config.as_dict(),
            "features": dict(reader.backbone.identity),
            "critic_features": dict(reader.critic.identity) if reader.critic is not None else None,
        }
        del settings["config"]["run"]["seed"]
        return json.loads(json.dumps(settings))

    def train(self, seed: int) -> dict[str, Any]:
        """One run; its summary, with the learning curve as [step, return] pairs."""
        with tempfile.TemporaryDirectory() as directory:
            out, file = Path(directory, "run"), Path(directory, "config.toml")
            file.write_text(tomli_w.dumps(self.config().as_dict()))
            bitrl = Path(sys.executable).with_name("bitrl")
            command = [bitrl, "run", "--config", file, "--seed", str(seed), "--out", out, "--json"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if answer.returncode:
                raise SystemExit(answer.stderr)
            rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        summary = json.loads(answer.stdout)
        summary.pop("run")
        return {**summary, "curve": [[row["step"], row["episode_return"]] for row in rows if "episode_return" in row]}


def finished(path: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that a combination's file holds already, if they were made with these settings."""
    if not path.is_file():
        return []
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    if results.get("settings") != settings:
        print(f"{path.name}: made with other settings or another model: trained anew", file=sys.stderr)
        return []
    return results["runs"]


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % confidence interval (Student's t)."""
    half = T95[len(values)] * statistics.stdev(values) / math.sqrt(len(values)) if len(values) in T95 else math.nan
    return statistics.mean(values), half


def ratio(returns: list[float], reference: list[float]) -> tuple[float, float, float]:
    """How good the mean of `returns` is against that of `reference`, and the 95 % interval of it (bootstrap over both's
    seeds).

    Above 1 is better: where returns are costs, below zero, the ratio is the other way round.
    """
    generator = np.random.default_rng(0)
    means = [generator.choice(values, (RESAMPLES, len(values))).mean(axis=1) for values in (returns, reference)]
    costs = statistics.mean(returns) < 0 and statistics.mean(reference) < 0
    above, below = reversed(means) if costs else means
    low, high = np.quantile(above / below, [0.025, 0.975])
    ratio_of_means = statistics.mean(returns) / statistics.mean(reference)
    return 1 / ratio_of_means if costs else ratio_of_means, float(low), float(high)


def summarise(runs: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """What a combination's file holds."""
    mean, half = interval([run["eval"]["mean_return"] for run in runs])
    found = {"mean_return": mean, "confidence_95": half if math.isfinite(half) else None}
    successes = [run["eval"]["success_rate"] for run in runs if run["eval"].get("success_rate") is not None]
    if len(successes) == len(runs):
        mean, half = interval(successes)
        found |= {"success_rate": mean, "success_confidence_95": half if math.isfinite(half) else None}
    return {
        **found,
        "max_train_seconds": max(run["train_seconds"] for run in runs),
        "max_peak_rss_mb": max(run["peak_rss_mb"] for run in runs),
        "settings": settings,
        "runs": runs,
    }


def table(found: dict[Cell, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each combination."""
    returns = {cell: [run["eval"]["mean_return"] for run in results["runs"]] for cell, results in found.items()}
    rows = []
    for cell, results in found.items():
        reference = attrs.evolve(cell, backbone=REFERENCE)
        rows.append(
            {
                "env": cell.env,
                "backbone": cell.backbone,
                "serializer": results["settings"]["config"]["run"]["serializer"],
                "seeds": len(results["runs"]),
                "steps": results["runs"][0]["steps"],
                "mean_return": results["mean_return"],
                "confidence_95": results["confidence_95"],
                "worst_seed": min(returns[cell]),
                **{name: results.get(name) for name in ("success_rate", "success_confidence_95")},
                f"ratio_to_{REFERENCE}": ratio(returns[cell], returns[reference])
                if reference in returns and reference != cell
                else None,
                "max_train_seconds": results["max_train_seconds"],
            }
        )
    return rows


def plus_minus(mean: float, half: float | None, form: str) -> str:
    """A mean and the half-width of its interval, if that is known."""
    return f"{mean:{form}}" + ("" if half is None else f" ± {half:{form}}")


def markdown(rows: list[dict[str, Any]], command: str) -> str:
    """The table for people, with columns for success rates and for the ratio to REFERENCE where there are any."""
    successes = any(row["success_rate"] is not None for row in rows)
    ratios = any(row[f"ratio_to_{REFERENCE}"] is not None for row in rows)
    about = "Return over the evaluation episodes, mean over seeds with its 95 % interval (Student's t)."
    if ratios:
        about += (
            f" The ratio to {REFERENCE} is of means, its interval from a bootstrap over seeds; above 100 % is better, "
            "also where returns are negative."
        )
    lines = [
        about,
        "",
        *([f"`{command}`", ""] if command else []),
        "| environment | backbone (policy / critic) | serializer | seeds | steps | return | worst seed |"
        + (" success |" if successes else "")
        + (f" of {REFERENCE} |" if ratios else ""),
        "|---" * (7 + successes + ratios) + "|",
    ]
    for row in rows:
        form = ".3f" if abs(row["mean_return"]) < 2 else ".1f"
        success = row["success_rate"]
        right = "" if success is None else plus_minus(success, row["success_confidence_95"], ".1%")
        share = row[f"ratio_to_{REFERENCE}"]
        words = "" if share is None else f"{share[0]:.1%} ({share[1]:.1%} to {share[2]:.1%})"
        lines.append(
            f"| {row['env']} | {row['backbone'].replace('/', ' / ')} | `{row['serializer']}` | {row['seeds']} "
            f"| {row['steps']:,} | {plus_minus(row['mean_return'], row['confidence_95'], form)} "
            f"| {row['worst_seed']:{form}} |" + (f" {right} |" if successes else "") + (f" {words} |" if ratios else "")
        )
    return "\n".join(lines) + "\n"


def draw(path: Path, found: dict[Cell, dict[str, Any]]) -> None:
    """The learning curves: a panel for each environment, three in a row, a colour for each combination, a thin line
    for each seed and a thick one for their mean.
    """
    try:
        import matplotlib
    except ImportError:
        print(f"{path.name} is not drawn: pip install matplotlib", file=sys.stderr)
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    environments = list(dict.fromkeys(cell.env for cell in found))
    columns = min(3, len(environments))
    rows = math.ceil(len(environments) / columns)
    figure, panels = plt.subplots(rows, columns, figsize=(max(7, 5 * columns), 3.6 * rows), dpi=150, squeeze=False)
    for axes in panels.flat[len(environments) :]:
        axes.set_visible(False)
    for axes, env in zip(panels.flat, environments, strict=False):
        for number, (cell, results) in enumerate((c, r) for c, r in found.items() if c.env == env):
            curves, label = [run["curve"] for run in results["runs"]], cell.backbone.replace("/", " / ")
            for curve in filter(None, curves):
                axes.plot(*zip(*curve, strict=True), color=f"C{number}", lw=0.7, alpha=0.35)
            steps = sorted(set.intersection(*({step for step, _ in curve} for curve in curves)))
            means = [statistics.mean(dict(map(tuple, curve))[step] for curve in curves) for step in steps]
            seeds = "1 seed" if len(curves) == 1 else f"{len(curves)} seeds"
            axes.plot(steps, means, color=f"C{number}", lw=1.8, label=f"{label}, {seeds}")
        axes.set(xlabel="environment steps", ylabel="return of the episodes in a rollout", title=env)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", action="append", help="repeatable; default CartPole-v1")
    parser.add_argument("--backbone", action="append", help="POLICY or POLICY/CRITIC; repeatable; default bitnet")
    parser.add_argument("--critic-backbone", help="the critic's, of every --backbone that names none")
    parser.add_argument("--serializer", help="default: json for texts")
    parser.add_argument("--steps", type=int, help="default: the environment's own")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="PART.OPTION=VALUE")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 … N−1")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--name", default="learning", help="of the table, where there is more than one combination")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    known = parser.parse_args(arguments)
    options = (*known.options, *([f"run.steps={known.steps}"] if known.steps is not None else []))
    critic = f"/{known.critic_backbone}" if known.critic_backbone else ""
    cells = [
        Cell(env, backbone if "/" in backbone else backbone + critic, known.serializer, options)
        for env in known.env or ["CartPole-v1"]
        for backbone in known.backbone or ["bitnet"]
    ]
    found: dict[Cell, dict[str, Any]] = {}
    writing = threading.Lock()

    def go(cell: Cell, seed: int, settings: dict[str, Any], runs: list[dict[str, Any]]) -> None:
        run = cell.train(seed)
        with writing:
            runs.append(run)
            runs.sort(key=lambda each: each["seed"])
            found[cell] = summarise(runs, settings)
            save(cell.name, found[cell], known.out)
            print(
                f"{cell.env} {cell.backbone} seed {seed}: return {run['eval']['mean_return']:.4g} ± "
                f"{run['eval']['std_return']:.3g}, {run['train_seconds']:.0f} s, {run['peak_rss_mb']:.0f} MB",
                flush=True,
            )

    with ThreadPoolExecutor(known.jobs) as pool:
        waiting = []
        for cell in cells:
            settings = cell.settings()
            runs = [run for run in finished(known.out / f"{cell.name}.json", settings) if run["seed"] < known.seeds]
            if runs:
                found[cell] = summarise(runs, settings)
            missing = set(range(known.seeds)) - {run["seed"] for run in runs}
            waiting += [pool.submit(go, cell, seed, settings, runs) for seed in sorted(missing)]
        try:
            for each in waiting:
                each.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    found = {cell: found[cell] for cell in cells}
    name = known.name
    rows = table(found)
    if len(cells) == 1:
        name = cells[0].name
    else:
        path = save(name, {"rows": rows}, known.out)
        (known.out / f"{name}.md").write_text(markdown(rows, json.loads(path.read_text())["command"]), encoding="utf-8")
    draw(known.out / f"{name}.png", found)
    print(markdown(rows, ""))


if __name__ == "__main__":
    main()
