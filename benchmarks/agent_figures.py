"""The lines of docs/results.md about agents: how fast they act and learn, and what they take. Written by figures.py."""

from __future__ import annotations

from typing import Any


def texts_lines(record: dict[str, Any]) -> list[str]:
    """CartPole in words beside Stable-Baselines3 in numbers, in sentences."""
    found = record["results"]
    theirs = found["stable_baselines3"]["steps_per_second"]
    ours, four, auto = (
        f"{each['steps_per_second']:,.0f} with {each['threads']} of two threads, {each['ratio']:.2f} ×"
        for each in (found["bitrl"], found["bitrl_four_blocks"], found["bitrl_auto"])
    )
    return [
        f"CartPole read as JSON by the ternary starter, beside Stable-Baselines3 on the bare numbers, both with 16 "
        f"environments and 4 epochs of minibatches of 64, each with the threads that suit it best "
        f"(`{record['command']}`): {ours} its {theirs:,.0f} steps per second. With all four blocks of the "
        f"model (`-o backbone.layers=none`): {four}. "
        f"With the readout that a run measures (`-o backbone.readout=auto`): {auto}."
    ]


def engine_learner_lines(record: dict[str, Any]) -> list[str]:
    """What heads learn in the engine beside what torch taught them."""
    found = record["results"]
    lines = [
        f"What the heads learn in the engine, beside what they learned when torch had their gradients "
        f"(`{record['command']}`; {len(found['CartPole-v1']['runs'])} seeds each, means with Student's 95 % intervals; "
        "equivalent within 5 % by two one-sided tests):",
        "",
        "| environment | | engine | torch | ratio | equivalent |",
        "|---|---|---|---|---|---|",
    ]
    for env, each in found.items():
        for name, what in (("return", "return of 100 episodes"), ("curve", "mean of the learning curve")):
            row = each[name]
            (low, high), (low_torch, high_torch) = row["engine_interval"], row["torch_interval"]
            lines.append(
                f"| {env} | {what} | {row['engine']:.1f} ({low:.1f} to {high:.1f}) "
                f"| {row['torch']:.1f} ({low_torch:.1f} to {high_torch:.1f}) | {row['ratio']:.3f} "
                f"| {row['equivalence']['verdict']} |"
            )
    return lines


def threads_lines(record: dict[str, Any]) -> list[str]:
    """One and two threads on the same texts."""
    lines = [
        f"The starter on one and on two threads, in turns, random tokens (`{record['command']}`):",
        "",
        "| work | texts | tokens of each | one thread | two threads | as fast |",
        "|---|---|---|---|---|---|",
    ]
    for row in record["results"]["rows"]:
        lines.append(
            f"| {row['work']} | {row['texts']} | {row['tokens']} | {row['1_threads_ms']:.2f} ms "
            f"| {row['2_threads_ms']:.2f} ms | {row['ratio']:.2f} × |"
        )
    return lines


def versions_lines(record: dict[str, Any]) -> list[str]:
    """A version's training beside an earlier one's, in a sentence."""
    found = record["results"]
    before, after = (commit[:7] for commit in found["commits"])
    return [
        f"{found['env']} trains at {found['after']:,.0f} steps per second, where it did at {found['before']:,.0f} "
        f"({after} and {before}, {len(found['rounds'])} rounds in turns, `{record['command']}`): "
        f"{found['ratio']:.2f} ×."
    ]


def acting_lines(record: dict[str, Any]) -> list[str]:
    """What an exported agent costs, in a sentence."""
    found = record["results"]
    return [
        f"An exported {found['env']} agent (`bitrl export`) is a file of {found['file_bytes'] / 1e6:.1f} MB beside the "
        f"starter model. By itself (`{record['command']}`) it takes {found['peak_rss_mb']:.0f} MB of memory, "
        f"{found['first_action_ms']:.0f} ms from its import to its first action and {found['action_ms']:.2f} ms "
        f"for each one on one thread, {found['of_training']:.2f} of what the agent in training takes."
    ]


def c_agent_lines(record: dict[str, Any]) -> list[str]:
    """What an agent without Python does and takes."""
    found = record["results"]
    program, instructions = found["program"], ", ".join(record["processor"]["features"])
    lines = [
        f"Agents without Python (`{record['command']}`, {instructions}, load average "
        f"{found['load_average']:.0f}): `bitrl-act` is a program of {program['program_bytes'] / 1000:.0f} KB; with the "
        f"starter model it takes {program['peak_rss_mb']:.1f} MB of memory and {program['first_action_ms']:.0f} ms (at "
        f"best {program['fastest_first_action_ms']:.0f}) from its start to the end of one action. Actions in states of "
        "random play, beside those of the algorithm itself (every bit) and of `bitrl act` (NumPy):",
        "",
        "| environment | states | equal to training's | largest difference to `bitrl act` | one thread, CPU time: p50 "
        "| p99 | two threads, by the clock: p50 | p99 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in found["tasks"]:
        lines.append(
            f"| {task['env']} | {task['states']:,} | {task['equal_to_training']:,} "
            f"| {task['largest_difference_to_python']:.1g} | {task['p50_cpu_ms']:.2f} ms "
            f"| {task['p99_cpu_ms']:.2f} ms | {task['p50_two_threads_ms']:.2f} ms "
            f"| {task['p99_two_threads_ms']:.2f} ms |"
        )
    return lines


def large_agent_lines(record: dict[str, Any]) -> list[str]:
    """An agent on a model of the 2B shape, by format."""
    lines = [
        f"An agent on a model of BitNet b1.58 2B-4T's shape with random weights, one text of "
        f"{record['results']['tokens']} tokens at a time (`{record['command']}`):",
        "",
        "| blocks | weights | peak memory | latency p50 | p99 |",
        "|---|---|---|---|---|",
    ]
    for blocks, forms in record["results"].items():
        for form, found in forms.items() if blocks != "tokens" else ():
            if "peak_rss_mb" in found:
                latency = found["latency_ms"]
                lines.append(
                    f"| {blocks.removesuffix(' layers')} | {form} | {found['peak_rss_mb']:,.0f} MB "
                    f"| {latency['p50']:,.1f} ms | {latency['p99']:,.1f} ms |"
                )
            else:
                lines.append(
                    f"| {blocks.removesuffix(' layers')} | {form} | {found['peak_rss']} × | {found['p50']} × | |"
                )
    return lines


def whole_run_lines(record: dict[str, Any]) -> list[str]:
    """A whole `bitrl run` on CartPole, in a sentence."""
    memory, seconds = record["results"]["cartpole"]["peak_rss_mb"], record["results"]["first_step_seconds"]["median"]
    return [
        f"A whole `bitrl run` on CartPole with the starter (`{record['command']}`) takes {memory:.0f} MB at its peak, "
        f"and {seconds:.2f} s from the command to the first environment step."
    ]


def large_run_lines(record: dict[str, Any]) -> list[str]:
    """The memory of heads that learn on a model of the 2B shape, in a sentence."""
    found = record["results"]
    peaks = [f"{name}: {each['peak_rss_mb']:,.0f} MB" for name, each in found.items() if isinstance(each, dict)]
    return [
        f"Heads that learn from {found['projection']} features of a model of BitNet b1.58 2B-4T's shape with random "
        f"weights, {found['steps']:,} steps of CartPole, the whole process at its peak, with a limit and without "
        f"(`{record['command']}`): {'; '.join(peaks)}."
    ]


def hostile_lines(record: dict[str, Any]) -> list[str]:
    """What a server stood, in a sentence."""
    found = record["results"]
    return [
        f"`bitrl serve` and {found['sent']:,} hostile requests beside other work (`{record['command']}`): "
        f"{found['wrong_answers']} wrong answers, all of the {found['good']:,} good requests in between answered "
        f"rightly, memory +{found['growth_mb'][-1]:.0f} MB, one process, no file left open."
    ]


def gradient_lines(record: dict[str, Any]) -> list[str]:
    """A gradient step in the engine beside torch, in sentences."""
    found = record["results"]
    times, autograd, torch = found["milliseconds"], found["autograd_to_engine"], found["torch_to_engine"]
    shares = found["fraction_of_limit"]
    return [
        f"A gradient step of PPO's default heads, {found['samples']} samples of {found['widths'][0]} features "
        f"(`{record['command']}`): {times['one_thread']:.2f} ms in the engine on one thread, "
        f"{times['two_threads']:.2f} ms on two, {times['autograd']:.2f} ms in torch by autograd "
        f"({autograd['one_thread']:.1f} and {autograd['two_threads']:.1f} ×), {times['torch']:.2f} ms in torch with "
        f"gradients written out ({torch['one_thread']:.1f} and {torch['two_threads']:.1f} ×), torch on one thread. "
        f"The engine's products reach {shares['one_thread']:.0%} and {shares['two_threads']:.0%} of the processor's "
        "limit of float32."
    ]


def soak_lines(record: dict[str, Any]) -> list[str]:
    """Hours of acting, in a sentence."""
    found = record["results"]
    drift, deadline, acts = found["drift"], found["deadline"], found["acts"]
    return [
        f"Acting at {deadline['rate_hz']:g} Hz for {found['seconds'] / 3600:.1f} h beside other work "
        f"(`{record['command']}`): {acts:,} acts, as many as {acts / 72_000:.0f} hours at 20 Hz have; memory "
        f"{drift['rss_growth_mb']:+.2f} MB, p50 {drift['p50_first_ms']:.2f} ms in the first quarter and "
        f"{drift['p50_last_ms']:.2f} ms in the last, p99 {drift['p99_first_ms']:.1f} and "
        f"{drift['p99_last_ms']:.1f} ms; {deadline['missed']:,} of {deadline['due']:,} acts later than "
        f"{deadline['deadline_ms']:.3g} ms."
    ]


def int8_actor_lines(record: dict[str, Any]) -> list[str]:
    """Whether an INT8 actor is faster, as a table."""
    rollout = record["results"]["cartpole_rollout"]
    lines = [
        "An INT8 actor (`algo.policy_quantisation=actor` computes in float32 at rounded weights): a policy network's "
        f"forward pass on one thread, with torch's INT8 products (`{record['command']}`). It gains where layers are "
        "wide, as ActorQ's are, and loses where they are as small as the heads here, which take "
        f"{100 * rollout['share']:.1f} % of a rollout's step on CartPole:",
        "",
        "| network | layers | states | float32 | INT8 | speed-up |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in record["results"]["networks"].items():
        lines.append(
            f"| {name.partition(', batch')[0]} | {' → '.join(map(str, each['widths']))} | {each['batch']} "
            f"| {each['float32_us']:,.0f} µs | {each['int8_us']:,.0f} µs | {each['speedup']:.2f} × |"
        )
    return lines
