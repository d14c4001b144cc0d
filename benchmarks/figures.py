"""Writes the figures of docs/results.md, docs/starter.md and docs/language-models.md from benchmarks/results, and those
of docs/paper.md from what is recorded of the paper's studies; tests/docs/test_results.py holds them equal.

python benchmarks/figures.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agent_figures import (
    acting_lines,
    c_agent_lines,
    engine_learner_lines,
    gradient_lines,
    hostile_lines,
    int8_actor_lines,
    large_agent_lines,
    large_run_lines,
    soak_lines,
    texts_lines,
    threads_lines,
    versions_lines,
    whole_run_lines,
)
from stranger_figures import mujoco_readout_lines, readout_lines, stranger_lines

ROOT = Path(__file__).parent.parent
STRANGERS, READOUTS, MUJOCO_READOUTS = (
    ROOT / f"benchmarks/results/studies/{name}.json" for name in ("strangers", "readouts", "readouts-mujoco")
)
RIVALS = ("bitrl", "stable_baselines3")
START, END = "<!-- figures: written by benchmarks/figures.py -->\n", "<!-- end of figures -->\n"

AGAINST = {
    "ppo-against-sb3-50000": ("CartPole-v1", 50_000),
    "ppo-against-sb3-100000": ("CartPole-v1", 100_000),
    "ppo-against-sb3-HalfCheetah-v5-300000": ("HalfCheetah-v5", 300_000),
    "ppo-against-sb3-Hopper-v5-300000": ("Hopper-v5", 300_000),
}
"""Results of ppo_against_sb3.py → environment and steps."""
QUIET = 2.5
"""Load averages from which on speeds are not shown: on two cores something else ran."""
SERIALIZERS = ("json", "compact", "natural")

ENVIRONMENTS = {
    "CartPole-v1": "json",
    "Acrobot-v1": "json",
    "MountainCar-v0": "json",
    "HalfCheetah-v5": "json",
    "Hopper-v5": "json",
    "Walker2d-v5": "json",
    "BabyAI-GoToRedBall-v0": "grid",
    "TextWorld-Cooking": "compact",
    "SmartHome-Light": "compact",
}
"""The nine tasks and the default serializer of each."""


def result(name: str) -> dict[str, Any]:
    """One result file, or an empty one while it has not been made."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def figures() -> str:
    """The tables of docs/results.md."""
    lines = [
        "CartPole-v1, BitRL recipe, starter model; five seeds each, 100 evaluation episodes per seed, greedy actions:",
        "",
        "| serializer | return, mean over seeds (95 %) | worst seed | steps | training time, slowest seed "
        "| peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for serializer in SERIALIZERS:
        record = result(f"learning-CartPole-v1-bitnet-{serializer}")
        if record:
            found = record["results"]
            worst = min(run["eval"]["mean_return"] for run in found["runs"])
            lines.append(
                f"| `{serializer}` | {found['mean_return']:.0f} ± {found['confidence_95']:.0f} | {worst:.0f} "
                f"| {found['runs'][0]['steps']:,} | {found['max_train_seconds']:.0f} s "
                f"| {found['max_peak_rss_mb']:.0f} MB |"
            )
    lines += environment_lines()
    lines += [
        "",
        "Without a language model (`--backbone mlp -o algo.preset=standard`), against Stable-Baselines3's PPO with the "
        "same settings, interleaved in one process, means over seeds:",
        "",
        "| environment | steps | seeds | return: bitrl | Stable-Baselines3 | worst seed: bitrl | Stable-Baselines3 "
        "| steps per second: bitrl | Stable-Baselines3 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (env, steps) in AGAINST.items():
        against = result(name).get("results")
        if against:
            worst_of = {who: min(pair[who]["return"] for pair in against["pairs"]) for who in RIVALS}
            lines.append(
                f"| {env} | {steps:,} | {len(against['pairs'])} "
                f"| {against['bitrl_mean_return']:.1f} | {against['stable_baselines3_mean_return']:.1f} "
                f"| {worst_of['bitrl']:.1f} | {worst_of['stable_baselines3']:.1f} "
                + (
                    f"| {against['bitrl_median_steps_per_second']:,.0f} ({against['speed_ratio']:.1f} ×) "
                    f"| {against['stable_baselines3_median_steps_per_second']:,.0f} |"
                    if against.get("load_average", 0) <= QUIET
                    else "| beside other work | |"
                )
            )
    for lines_of, name in (
        (texts_lines, "texts-against-sb3"),
        (states_lines, "bench-starter"),
        (training_lines, "bench-env"),
        (longer_lines, "bench-env-longer"),
        (training_lines, "bench-env-strangers"),
        (engine_learner_lines, "engine-learner"),
        (threads_lines, "threads"),
        (versions_lines, "two-versions-TextWorld-Cooking"),
        (acting_lines, "acting"),
        (c_agent_lines, "c-agent"),
        (large_agent_lines, "large-agent"),
        (whole_run_lines, "whole-run"),
        (large_run_lines, "whole-run-large"),
        (hostile_lines, "serve-hostile"),
        (gradient_lines, "gradient-step"),
        (soak_lines, "soak-hour"),
        (soak_lines, "soak-long"),
        (int8_actor_lines, "int8-actor"),
        (bench_lines, "bench-bitnet-2b-4t"),
        (formats_lines, "bench-formats"),
        (without_amx_lines, "bench-without-amx"),
        (rival_lines, "llama-cpp"),
        (smollm2_lines, "smollm2"),
        (trl_lines, "grpo-against-trl"),
        (trl_lines, "grpo-against-trl-smollm2"),
        (parts_lines, "grpo-by-parts"),
        (parts_lines, "grpo-by-parts-small"),
        (failing_lines, "failing-rewards"),
        (exported_lines, "exported-in-llama-cpp"),
    ):
        record = result(name)
        if record:
            lines += ["", *lines_of(record)]
        if name == "bench-env-strangers" and STRANGERS.is_file():
            lines += ["", *stranger_lines(STRANGERS)]
        if name == "texts-against-sb3" and READOUTS.is_file():
            lines += ["", *readout_lines(READOUTS)]
        if name == "texts-against-sb3" and MUJOCO_READOUTS.is_file():
            lines += ["", *mujoco_readout_lines(MUJOCO_READOUTS)]
    startup = result("startup").get("results")
    if startup:
        lines += [
            "",
            f"`bitrl --help` takes {startup['bitrl --help (median ms)']:.0f} ms and `bitrl list` "
            f"{startup['bitrl list (median ms)']:.0f} ms.",
        ]
    if startup and "bitrl run (mlp) (median ms)" in startup:
        lines += [
            f"A whole run of one step takes {startup['bitrl run (starter, JSON) (median ms)'] / 1000:.1f} s with the "
            f"starter model and {startup['bitrl run (mlp) (median ms)'] / 1000:.1f} s with `mlp`; a training of "
            f"CartPole takes {startup['training, starter, JSON (peak MB)']:.0f} and "
            f"{startup['training, mlp (peak MB)']:.0f} MB.",
        ]
    lines += ["", *processor_lines()]
    return "\n".join(lines) + "\n"


def processor_lines() -> list[str]:
    """Which of the figures were measured on which processor, in a sentence."""
    figures = {
        **{f"learning-{env}-bitnet-{serializer}": f"learning of {env}" for env, serializer in ENVIRONMENTS.items()},
        **{f"learning-CartPole-v1-bitnet-{serializer}": "learning of CartPole-v1" for serializer in SERIALIZERS},
        **dict.fromkeys((*AGAINST, "texts-against-sb3"), "the comparison with Stable-Baselines3"),
        **dict.fromkeys(("engine-learner", "gradient-step"), "learning in the engine"),
        "threads": "one and two threads",
        "two-versions-TextWorld-Cooking": "the comparison of versions",
        "bench-starter": "the starter model's speed",
        **dict.fromkeys(("bench-env", "bench-env-longer", "bench-env-strangers"), "training's speed"),
        "acting": "an exported agent",
        **dict.fromkeys(("c-agent", "large-agent"), "agents without Python and on a large model"),
        **dict.fromkeys(("whole-run", "whole-run-large"), "whole runs"),
        "serve-hostile": "hostile requests",
        "int8-actor": "the INT8 actor",
        **dict.fromkeys(("bench-bitnet-2b-4t", "bench-formats", "bench-without-amx"), "the large shapes' speed"),
        "llama-cpp": "the comparison with llama.cpp",
        "smollm2": "SmolLM2-135M",
        **dict.fromkeys(("grpo-against-trl", "grpo-against-trl-smollm2"), "the comparison with TRL"),
        **dict.fromkeys(("grpo-by-parts", "grpo-by-parts-small"), "an update of GRPO by parts"),
        "startup": "the commands' startup",
    }
    measured: dict[str, list[str]] = {}
    for name, what in figures.items():
        processor = result(name).get("processor")
        if processor:
            on = measured.setdefault(f"{processor['name']} ({', '.join(processor['features'])})", [])
            on += [] if what in on else [what]
    parts = [f"on two cores of an {processor}: {', '.join(what)}" for processor, what in measured.items()]
    return [f"Measured {'; '.join(parts)}."] if parts else []


def environment_lines() -> list[str]:
    """Results by environment on the ternary starter model, with the environment's defaults, as a table."""
    found = {env: result(f"learning-{env}-bitnet-{serializer}") for env, serializer in ENVIRONMENTS.items()}
    lines = [
        "",
        "Results by environment on the starter model: return and success rate of greedy actions, means over seeds with "
        "their 95 % intervals "
        "(`benchmarks/results/learning-*.json` hold the settings and the curves), and the feature-cache hit rate over "
        "training and evaluation:",
        "",
        "| environment | serializer | seeds | steps | return | success rate | cache hit rate "
        "| training time, slowest seed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    for env, record in found.items():
        if record:
            at = record["results"]
            success = ""
            if "success_rate" in at:
                half = at["success_confidence_95"]
                success = plus_minus(100 * at["success_rate"], None if half is None else 100 * half) + " %"
            rows.append(
                f"| {env} | `{ENVIRONMENTS[env]}` | {len(at['runs'])} | {at['runs'][0]['steps']:,} "
                f"| {plus_minus(at['mean_return'], at['confidence_95'])} | {success} | {cache_hits(at['runs'])} "
                f"| {at['max_train_seconds']:,.0f} s |"
            )
    picture = ["", "![Learning curves in all nine environments](../benchmarks/results/learning-worlds.png)"]
    return [*lines, *rows, *(picture if result("learning-worlds") else [])] if rows else []


def cache_hits(runs: list[dict[str, Any]]) -> str:
    """The feature-cache hit rate over all runs."""
    hits, misses = (sum(run["cache"][name] for run in runs) for name in ("hits", "misses"))
    return f"{hits / (hits + misses):.0%}"


def plus_minus(mean: float, half: float | None) -> str:
    """A mean with the half-width of its interval, if that is known."""
    digits = 0 if abs(mean) >= 100 else 1 if abs(mean) >= 2 else 2
    return f"{mean:,.{digits}f}" + ("" if half is None else f" ± {half:,.{digits}f}")


def training_lines(record: dict[str, Any]) -> list[str]:
    """A table of `bitrl bench env`: a line for each environment."""
    found = record["results"]["environments"]
    parts = list(found[0]["seconds"])
    lines = [
        f"Training, end to end, and where its time goes (`{record['command']}`): environment steps per second, shares "
        "of the time, the encoder's speed in training as a percentage of its standalone speed on the same texts, the "
        "feature-cache hit rate, and by how much the cache multiplies the features computed per second:",
        "",
        f"| environment | steps per second | {' | '.join(parts)} | encoder, % of standalone speed | cache hit rate "
        "| cache gain |",
        "|---" * (len(parts) + 5) + "|",
    ]
    for row in found:
        total = sum(row["seconds"].values())
        shares = " | ".join(f"{row['seconds'][part] / total:.0%}" for part in parts)
        encoder, cache = row["encoder"], row["cache"]
        alone = f"{encoder['share_of_alone']:.0%}" if encoder else ""
        kept = f"{cache['hit_rate']:.0%} | {cache['gain']:.1f} ×" if cache else " | "
        lines.append(f"| {row['env']} | {row['steps_per_second']:,.0f} | {shares} | {alone} | {kept} |")
    return lines


def longer_lines(record: dict[str, Any]) -> list[str]:
    """What the cache gives where states repeat only after a while, in a sentence for each environment."""
    return [
        f"Over the first {row['steps']:,} steps in {row['env']} (`{record['command']}`) "
        f"the feature-cache hit rate is {row['cache']['hit_rate']:.0%}, which gives {row['cache']['gain']:.1f} × as "
        "many features per second (median over the updates)."
        for row in record["results"]["environments"]
    ]


def states_lines(record: dict[str, Any]) -> list[str]:
    """The starter model's speed in a sentence."""
    rows = [row for row in record["results"]["cases"] if "states_per_second" in row]
    one, most = rows[0], max(rows, key=lambda row: row["threads"])
    spent = {name: f"{value:.0f} µs" for name, value in most["microseconds_per_state"].items()}
    return [
        f"The starter model encodes {most['states_per_second']:,.0f} CartPole states per second as JSON in batches of "
        f"16 on {most['threads']} threads, tokenising included ({one['states_per_second']:,.0f} on one; "
        f"`{record['command']}`). A state takes {spent['all']}: {spent['text']} to write, {spent['tokenizer']} to "
        f"tokenise, {spent['engine']} in the engine."
    ]


def bench_lines(record: dict[str, Any]) -> list[str]:
    """A table of `bitrl bench`: a line for each format and case, a column for each number of threads."""
    found = record["results"]
    counts = sorted({row["threads"] for row in found["cases"]})
    threads = [f"{count} thread{'s' * (count > 1)}" for count in counts]
    memory = {row["format"]: row["peak_rss_mb"] for row in found["load"]}
    cells = {(row["format"], row["case"], row["threads"]): row for row in found["cases"]}
    lines = [
        f"Random weights in the shape of BitNet b1.58 2B-4T (`{record['command']}`), tokens per second and the "
        "fraction of the machine's limit, measured beside each: for encoding the multiply-adds of the widest vector "
        "instructions, for decoding reading from memory.",
        "",
        f"| format | case | {' | '.join(threads)} | peak memory |",
        "|---" * (len(counts) + 3) + "|",
    ]
    for format, case in dict.fromkeys((row["format"], row["case"]) for row in found["cases"]):
        speeds = []
        for count in counts:
            row = cells[format, case, count]
            speeds.append(f"{speed(row['tokens_per_second'])} ({row['peak_fraction']:.0%})")
        lines.append(f"| {format} | {case} | {' | '.join(speeds)} | {memory[format]:,.0f} MB |")
    amx = [row["amx_fraction"] for row in found["cases"] if "amx_fraction" in row]
    if amx:
        lines += [
            "",
            f"Above 100 %: this processor multiplies with AMX; of AMX's own limit these are {min(amx):.0%} to "
            f"{max(amx):.0%}. Loading takes "
            + " and ".join(f"{row['load_seconds']:.1f} s ({row['format']})" for row in found["load"])
            + " from a warm page cache.",
        ]
    return lines


def encoding(record: dict[str, Any], format: str) -> str:
    """From which fraction of its limit to which a format encodes."""
    cases = [row for row in record["results"]["cases"] if row["format"] == format and row["case"].startswith("encode")]
    fractions = [row["peak_fraction"] for row in cases]
    return f"{min(fractions):.0%} to {max(fractions):.0%}"


def formats_lines(record: dict[str, Any]) -> list[str]:
    """The other formats in a sentence."""
    found = [f"{format} at {encoding(record, format)}" for format in ("int8", "int4", "bf16")]
    return [
        f"Three blocks of that shape in the other formats (`{record['command']}`) encode {', '.join(found)} of the "
        "limit of their vector instructions, over the same four cases and both numbers of threads."
    ]


def without_amx_lines(record: dict[str, Any]) -> list[str]:
    """What a processor without AMX would reach, in a sentence."""
    return [f"Ternary without AMX (`{record['command']}`): {encoding(record, 'ternary')}."]


def rival_lines(record: dict[str, Any]) -> list[str]:
    """A table of benchmarks/against_llama_cpp.py."""
    found = record["results"]
    rival = f"{found['rival']['name']} {found['rival']['version']}"
    lines = [
        f"The same shape in {found['rival']['type']}, against {rival} built from source: one file read by both, "
        f"interleaved in one process (`{record['command']}`), tokens per second:",
        "",
        "| case | threads | bitrl | llama.cpp | ratio |",
        "|---|---|---|---|---|",
    ]
    for row in found["cases"]:
        lines.append(
            f"| {row['case']} | {row['threads']} | {speed(row['bitrl_tokens_per_second'])} "
            f"| {speed(row['llama_cpp_tokens_per_second'])} | {row['ratio']:.1f} × |"
        )
    return lines


def smollm2_lines(record: dict[str, Any]) -> list[str]:
    """How near a real model is to transformers, in a sentence: benchmarks/smollm2.py."""
    greedy, errors = record["results"]["greedy_fp32"], record["results"]["relative_error_after_each_block"]
    return [
        f"SmolLM2-135M in fp32 generates the same {greedy['tokens_each']} greedy tokens as transformers after "
        f"{greedy['prompts_equal']} of {greedy['prompts']} prompts; its hidden states differ by at most "
        f"{max(errors):.0e} relatively after any of {len(errors)} blocks (`{record['command']}`)."
    ]


def trl_lines(record: dict[str, Any]) -> list[str]:
    """A table of benchmarks/grpo_against_trl.py: a line for everyone, TRL last."""
    found = record["results"]
    lines = [
        f"GRPO of {found['model']} on `{found['env']}`, {found['completions']} completions of at most "
        f"{found['tokens']} tokens an update, beside TRL {found['trl']}'s GRPOTrainer with equal settings, an update "
        f"each in turn, {found['threads']} thread{'s' * (found['threads'] > 1)} (`{record['command']}`). Medians over "
        f"{found['updates'] - 1} updates, on a machine that did other things too, so in seconds of CPU; rewards are "
        "means over the first and the last fifth of updates:",
        "",
        "| | CPU seconds an update | × TRL's speed | reward, first | last |",
        "|---|---|---|---|---|",
    ]
    for name, seconds in found["cpu_seconds_per_update"].items():
        ratio = found["ratio_to_trl_in_cpu_seconds"].get(name)
        reward = found["reward"][name]
        lines.append(
            f"| {name} | {seconds:.2f} | {'' if ratio is None else f'{ratio:.2f}'} | {reward['first']:.3f} "
            f"| {reward['last']:.3f} |"
        )
    return lines


def parts_lines(record: dict[str, Any]) -> list[str]:
    """A table of benchmarks/grpo_by_parts.py: a line for each precision of rollouts, a column for each part."""
    found = record["results"]
    parts = list(found["seconds_by_part"]["int8"])
    lines = [
        f"Where an update of GRPO's time goes, {found['model']} on `{found['env']}`, {found['completions']} "
        f"completions of at most {found['tokens']} tokens, by the precision of rollouts (`{record['command']}`), "
        "shares of the time; CPU seconds of an update, and beside the faster full precision's:",
        "",
        f"| rollout | {' | '.join(parts)} | CPU seconds | × {found['full_precision']}'s |",
        "|---" * (len(parts) + 3) + "|",
    ]
    cpu = found["cpu_seconds_per_update"]
    for name, seconds in found["seconds_by_part"].items():
        total = sum(seconds.values())
        shares = " | ".join(f"{seconds[part] / total:.1%}" for part in parts)
        against = found["int8_step_to_full_precision_in_cpu_seconds"] if name == "int8" else None
        lines.append(f"| {name} | {shares} | {cpu[name]:.2f} | {'' if against is None else f'{against:.2f}'} |")
    return lines


def failing_lines(record: dict[str, Any]) -> list[str]:
    """What failing rewards cost, in a sentence."""
    found = record["results"]
    return [
        f"A run in which {found['failed']:,} of {found['scored']:,} rewards raised, were no numbers, ended their "
        f"process or hung (`{record['command']}`) ended, with every one counted; an update took "
        f"{found['median_update_to_one_without_failures']:.2f} × as long as without failures (median)."
    ]


def exported_lines(record: dict[str, Any]) -> list[str]:
    """Whether llama.cpp completes as the engine does, in a sentence for each kind of weights."""
    return [
        f"After {row['steps']:,} completions of GRPO with `--backbone {row['backbone']}`, the file that `bitrl export` "
        f"writes of {row['model']} is read by llama.cpp {row['llama_cpp']}: {row['same_completions']} of "
        f"{row['prompts']} greedy completions are the engine's, and logits differ by "
        f"{row['relative_error_of_logits']:.0e} relatively (`{record['command']}`)."
        for row in record["results"]
    ]


def speed(tokens_per_second: float) -> str:
    """Three digits are enough."""
    return f"{tokens_per_second:,.0f}" if tokens_per_second >= 100 else f"{tokens_per_second:.1f}"


def starter_figures() -> str:
    """The tables of docs/starter.md."""
    lines: list[str] = [""]
    for lines_of, name in (
        (size_lines, "size-against-speed"),
        (ladder_lines, "starter"),
        (distilled_lines, "distilled"),
    ):
        record = result(name)
        if record:
            lines += [*lines_of(record), ""]
    return "\n".join(lines)


def size_lines(record: dict[str, Any]) -> list[str]:
    """A table of benchmarks/size_against_speed.py: a line for each shape, a column for each format and threads."""
    found = record["results"]
    columns = list(found["shapes"][0]["states_per_second"])
    lines = [
        f"States per second, {found['tokens']} tokens each, batches of {found['batch']}, the engine alone "
        f"(`{record['command']}`; medians of {found['rounds']} interleaved rounds):",
        "",
        f"| width x feed-forward x blocks | weights in the blocks | {' | '.join(columns)} |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for row in found["shapes"]:
        cells = " | ".join(f"{row['states_per_second'][column]:,}" for column in columns)
        lines.append(f"| {row['shape']} | {row['block_weights'] / 1e6:.1f} M | {cells} |")
    return lines


def ladder_lines(record: dict[str, Any]) -> list[str]:
    """Tables of benchmarks/starter.py: how well numbers and words are decoded linearly, a column a backbone."""
    found = record["results"]
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for backbone, at in found.items():
        for reading in at["r_squared"]:
            row = rows.setdefault((reading["env"], reading["states"]), {})
            row[f"{backbone} {reading['serializer']}"] = reading["mean"][-1]
    serializers = list(dict.fromkeys(r["serializer"] for at in found.values() for r in at["r_squared"]))
    lines = [
        f"How well state variables can be linearly decoded after the last block: R², mean over variables "
        f"(`{record['command']}`), by serializer: "
        f"{' / '.join(serializers)}:",
        "",
        f"| environment | states | {' | '.join(found)} |",
        "|---" * (len(found) + 2) + "|",
    ]
    for (env, states), values in rows.items():
        cells = " | ".join(" / ".join(f"{values[f'{b} {s}']:.3f}" for s in serializers) for b in found)
        lines.append(f"| {env} | {states} | {cells} |")
    lines += ["", f"| accuracy of a linear probe about words | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    for question in next(iter(found.values()))["right"]:
        cells = " | ".join(f"{found[b]['right'][question]['accuracy']:.3f}" for b in found)
        lines.append(f"| {question} | {cells} |")
    return lines


def distilled_lines(record: dict[str, Any]) -> list[str]:
    """A table of benchmarks/distilled.py: a line for each thing measured, a column for each model."""
    found = record["results"]
    words = {
        "starter": "starter, trained alone",
        "distilled": "SmolLM2's first 3 blocks, distilled into ternary ones",
        "teacher": "the same blocks of the teacher, int8",
    }
    lines = [
        f"Trained alone, or distilled from a larger model (`{record['command']}`): R² of the state variables in states "
        "of random play as JSON, accuracy of a linear probe about words, and CartPole states per second on one thread:",
        "",
        f"| | {' | '.join(words[name] for name in found)} |",
        "|---" * (len(found) + 1) + "|",
    ]
    for part in ("r_squared", "right"):
        for what in next(iter(found.values()))[part]:
            lines.append(f"| {what} | {' | '.join(f'{of[part][what]:.3f}' for of in found.values())} |")
    speeds = " | ".join(f"{of['states_per_second']:,}" for of in found.values())
    return [*lines, f"| states per second | {speeds} |"]


def paper_figures() -> str:
    """The tables of docs/paper.md: every claim with its verdict, and the results of each study."""
    from bitrl.core.studies.comparison import begun_baseline, compare
    from bitrl.core.studies.design import build_design, read_design
    from bitrl.core.studies.paper.claims import Evidence, judged
    from bitrl.core.studies.paper.sources import PREFIX, analysis, evidence, files
    from bitrl.core.studies.tables import markdown, tables

    results, _ = evidence(ROOT / "nowhere")
    found = judged(Evidence(results, analysis()))
    lines = []
    for ours, title in ((False, "The paper's claims"), (True, "Questions that it leaves open")):
        lines += ["", f"## {title}", "", "| claim | verdict | measured |", "|---|---|---|"]
        lines += [
            f"| {claim.words} | {claim.answer(finding)} | {finding.measured} |"
            for claim, finding in found
            if claim.ours == ours
        ]
    for name, each in results.items():
        baseline = begun_baseline(each, build_design(read_design(files()[name])).baseline)
        commits = sorted({str(run.provenance["git_commit"])[:12] for run in each})
        shown = [table for table in tables(compare(each, baseline=baseline)) if ": beside" not in table.title]
        lines += ["", f"## Study {PREFIX}{name}", "", f"{len(each)} runs, at commit {', '.join(commits)}.", ""]
        lines += markdown(shown).replace("## ", "### ").splitlines()
    return "\n".join(lines) + "\n"


def language_figures() -> str:
    """The tables of docs/language-models.md."""
    lines = [""]
    for name, lines_of in (("ternary-learner", ternary_lines), ("dose-and-response", dose_lines)):
        path = ROOT / "benchmarks" / "results" / "studies" / f"{name}.json"
        if path.is_file():
            lines += [*lines_of(path), ""]
    return "\n".join(lines)


def ternary_lines(path: Path) -> list[str]:
    """A ternary model before and after it learned: a line for each run of the study, and of what was tried before."""
    from bitrl.core.studies.recorded import read_recorded

    lines = [
        f"A ternary model that learns in ternary: `bitrl study examples/studies/{path.stem}.toml`, and below what was "
        "tried before. Rewards are sampled in the first update, greedy at the end; right are completions of reward 1:",
        "",
        "| task | learning rate | group | divided by the deviation | seed | completions | reward at first | at the end "
        "| right at the end |",
        "|---" * 9 + "|",
    ]
    for file in (path, path.with_name("ternary-tried.json")):
        for run in read_recorded(file)[0] if file.is_file() else []:
            rate, group, divided = (run.settings[f"algo.{n}"] for n in ("learning_rate", "group_size", "normalise_std"))
            reward, right, last = run.value("mean_return"), run.value("success_rate"), run.curve[-1]
            lines.append(
                f"| {run.task} | {rate} | {group} | {'yes' if divided else 'no'} | {run.seed} | {last[0]:,} "
                f"| {run.curve[0][1]:.2f} | {f'stopped at {last[1]:.2f}' if reward is None else f'{reward:.2f}'} "
                f"| {'' if right is None else f'{right:.0%}'} |"
            )
    return lines


def dose_lines(path: Path) -> list[str]:
    """What each precision of rollouts and each correction gave, with diagnostics: a line for each arm."""
    from bitrl.core.studies.comparison import compare_rows
    from bitrl.core.studies.recorded import read_recorded
    from bitrl.core.studies.tables import number, shares

    results, baseline = read_recorded(path)
    seen = result(path.stem)["results"]
    rows = compare_rows(results, "mean_return", baseline, margin=(0.02, True))
    lines = [
        f"Rollouts of a float model (`bitrl study examples/studies/{path.stem}.toml`): greedy reward at the end, mean "
        f"and worst of seeds, its ratio to {baseline}'s with a 95 % interval, whether it is equivalent within 2 %; "
        "medians over all updates of what was measured; and for each seed the completions after which the first alarm "
        "spoke, and after which the greedy reward had fallen below nine tenths of its best before:",
        "",
        "| rollouts and correction | seeds | reward | worst | ratio | within 2 % | ESS | M₂ | sign skew | alarm "
        "| fallen |",
        "|---" * 11 + "|",
    ]
    for row in rows:
        own = seen[row.arm]
        ess, m2, skew = (own["diagnostics"][name] for name in ("ess", "m2", "sign_skew"))
        first = [min((step for step in run["alarms"].values() if step), default=None) for run in own["runs"]]
        fallen = [run["fallen"] for run in own["runs"]]
        lines.append(
            f"| {row.arm} | {len(row.seeds)} | {number(row.mean)} | {number(min(row.values))} "
            f"| {shares(row.ratio_interval)} | {row.equivalence.verdict if row.equivalence else ''} "
            f"| {ess:.3f} | {m2:.2g} | {skew:+.3f} | {steps(first)} | {steps(fallen)} |"
        )
    return lines


def steps(found: list[int | None]) -> str:
    """The steps of seeds; nothing where none has one."""
    return ", ".join("–" if step is None else f"{step:,}" for step in found) if any(found) else ""


def main() -> None:
    for page, lines in (
        ("docs/results.md", figures()),
        ("docs/starter.md", starter_figures()),
        ("docs/language-models.md", language_figures()),
        ("docs/paper.md", paper_figures()),
    ):
        path = ROOT / page
        before, rest = path.read_text(encoding="utf-8").split(START)
        path.write_text(before + START + lines + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
