"""The tables of speed in docs/results.md, from what `bitrl bench --out` and benchmarks/against_llama_cpp.py write."""

import importlib.util
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("figures", BENCHMARKS / "figures.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        spec.loader.exec_module(module)
    return module


def row(format: str, case: str, threads: int, speed: float, fraction: float, **more: object) -> dict:
    return {
        "format": format,
        "case": case,
        "threads": threads,
        "tokens_per_second": speed,
        "peak_fraction": fraction,
        **more,
    }


def test_a_line_for_each_case_and_a_column_for_each_number_of_threads(figures):
    cases = [
        row("ternary", "encode 32 tokens", 1, 205.4, 0.831),
        row("ternary", "decode 32 tokens", 1, 43.21, 0.86),
        row("ternary", "encode 32 tokens", 2, 1402.6, 1.25),
        row("ternary", "decode 32 tokens", 2, 45, 0.9),
    ]
    load = [{"format": "ternary", "peak_rss_mb": 547.6}]
    lines = figures.bench_lines({"command": "bitrl bench", "results": {"cases": cases, "load": load}})
    assert "| format | case | 1 thread | 2 threads | peak memory |" in lines
    assert "| ternary | encode 32 tokens | 205 (83%) | 1,403 (125%) | 548 MB |" in lines
    assert "| ternary | decode 32 tokens | 43.2 (86%) | 45.0 (90%) | 548 MB |" in lines
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1


def test_the_rival_stands_beside(figures):
    case = {
        "case": "encode 32 tokens",
        "threads": 2,
        "bitrl_tokens_per_second": 401.2,
        "llama_cpp_tokens_per_second": 65.43,
        "ratio": 6.04,
    }
    rival = {"name": "llama-cpp-python", "version": "0.3.36", "type": "TQ2_0"}
    lines = figures.rival_lines({"command": "python x.py", "results": {"rival": rival, "cases": [case]}})
    assert "| encode 32 tokens | 2 | 401 | 65.4 | 6.0 × |" in lines
    assert "python x.py" in lines[0]


def test_states_a_second_and_where_the_time_goes(figures):
    spent = {"text": 10.6, "tokenizer": 40.2, "engine": 180.0, "all": 231.0}
    rows = [
        row("ternary", "states", threads, 1, 1, states_per_second=speed, microseconds_per_state=spent)
        for threads, speed in ((1, 2400.0), (2, 4329.0))
    ]
    rows.append(row("ternary", "encode 32 tokens", 1, 1, 1))
    (line,) = figures.states_lines({"command": "bitrl bench", "results": {"cases": rows}})
    assert "4,329 CartPole states per second" in line
    assert "2 threads" in line
    assert "2,400 on one" in line
    assert "231 µs: 11 µs to write, 40 µs to tokenise, 180 µs in the engine" in line


def test_a_real_model_beside_transformers(figures):
    greedy = {"tokens_each": 64, "prompts": 20, "prompts_equal": 19}
    results = {"greedy_fp32": greedy, "relative_error_after_each_block": [8.1e-7, 3.2e-6, 2.0e-6]}
    (line,) = figures.smollm2_lines({"command": "python x.py", "results": results})
    assert "the same 64 greedy tokens as transformers after 19 of 20 prompts" in line
    assert "at most 3e-06 relatively after any of 3 blocks (`python x.py`)" in line


def test_the_precision_ladder_has_a_column_for_each_backbone(figures):
    reading = {"env": "E-v0", "serializer": "json", "states": "random", "mean": [0.5, 0.98765]}
    of = {b: {"r_squared": [reading], "right": {"can it?": {"accuracy": a}}} for b, a in (("x", 0.9), ("y", 0.75))}
    lines = figures.ladder_lines({"command": "python x.py", "results": of})
    assert "| E-v0 | random | 0.988 | 0.988 |" in lines
    assert "| can it? | 0.900 | 0.750 |" in lines


def test_a_column_for_each_model_trained_or_distilled(figures):
    def model(shift: float) -> dict:
        return {"r_squared": {"E-v0": 0.99 - shift}, "right": {"can it?": 0.9}, "states_per_second": 6000}

    lines = figures.distilled_lines({"command": "python x.py", "results": {"starter": model(0), "teacher": model(0.1)}})
    assert "| | starter, trained alone | the same blocks of the teacher, int8 |" in lines
    assert "| E-v0 | 0.990 | 0.890 |" in lines
    assert lines[-1] == "| states per second | 6,000 | 6,000 |"


def test_a_line_for_each_shape(figures):
    shapes = [{"shape": "256x768x4", "block_weights": 3145728, "states_per_second": {"ternary, 1 threads": 4321}}]
    found = {"tokens": 13, "batch": 16, "rounds": 5, "shapes": shapes}
    assert figures.size_lines({"command": "x", "results": found})[-1] == "| 256x768x4 | 3.1 M | 4,321 |"


def test_a_line_for_each_environment_that_was_trained_in(figures, monkeypatch):
    runs = [{"steps": 401_408, "cache": {"hits": hits, "misses": 10}} for hits in (10, 20, 10)]
    made = {
        "learning-CartPole-v1-bitnet-json": {"mean_return": 499.6, "confidence_95": 1.2},
        "learning-BabyAI-GoToRedBall-v0-bitnet-grid": {
            "mean_return": 0.871,
            "confidence_95": 0.02,
            "success_rate": 0.912,
            "success_confidence_95": 0.031,
        },
    }
    monkeypatch.setattr(
        figures,
        "result",
        lambda name: {"results": {"runs": runs, "max_train_seconds": 61.4, **made[name]}} if name in made else {},
    )
    table = [line for line in figures.environment_lines() if line.startswith("|")][2:]
    assert table == [
        "| CartPole-v1 | `json` | 3 | 401,408 | 500 ± 1 |  | 57% | 61 s |",
        "| BabyAI-GoToRedBall-v0 | `grid` | 3 | 401,408 | 0.87 ± 0.02 | 91.2 ± 3.1 % | 57% | 61 s |",
    ]
    made.clear()
    assert figures.environment_lines() == []


def test_a_line_for_each_environment_and_where_its_time_goes(figures):
    row = {
        "env": "CartPole-v1",
        "steps_per_second": 3857.4,
        "seconds": {"environment": 1.0, "encoder": 3.0},
        "encoder": {"share_of_alone": 0.98},
        "cache": {"hit_rate": 0.741, "gain": 3.24},
    }
    numbers = {**row, "env": "Pendulum-v1", "encoder": None, "cache": None}
    lines = figures.training_lines({"command": "bitrl bench env", "results": {"environments": [row, numbers]}})
    assert (
        "| environment | steps per second | environment | encoder | encoder, % of standalone speed | cache hit rate "
        "| cache gain |" in lines
    )
    assert "| CartPole-v1 | 3,857 | 25% | 75% | 98% | 74% | 3.2 × |" in lines
    assert "| Pendulum-v1 | 3,857 | 25% | 75% |  |  |  |" in lines
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_a_sentence_for_an_environment_whose_states_repeat_later(figures):
    row = {"env": "TextWorld-Cooking", "steps": 131_072, "cache": {"hit_rate": 0.617, "gain": 2.64}}
    [line] = figures.longer_lines({"command": "bitrl bench env", "results": {"environments": [row]}})
    assert "first 131,072 steps in TextWorld-Cooking (`bitrl bench env`) the feature-cache hit rate is 62%" in line
    assert "gives 2.6 × as many" in line


def test_an_exported_agents_cost_is_a_sentence(figures):
    results = {
        **{"env": "CartPole-v1", "file_bytes": 400_752, "peak_rss_mb": 52.3, "first_action_ms": 281.0},
        **{"action_ms": 0.432, "of_training": 0.853},
    }
    [line] = figures.acting_lines({"command": "python benchmarks/acting.py", "results": results})
    assert "a file of 0.4 MB" in line
    assert "52 MB of memory, 281 ms from its import to its first action and 0.43 ms for each one" in line


def test_where_an_int8_actor_gains(figures):
    each = {"widths": [4, 8, 2], "batch": 16, "float32_us": 1234.4, "int8_us": 2468.8, "speedup": 0.5, "rounding_us": 9}
    results = {"networks": {"heads, batch 16": each}, "cartpole_rollout": {"share": 0.0123}}
    lines = figures.int8_actor_lines({"command": "python benchmarks/int8_actor.py", "results": results})
    assert "which take 1.2 % of a rollout's step" in lines[0]
    assert lines[-1] == "| heads | 4 → 8 → 2 | 16 | 1,234 µs | 2,469 µs | 0.50 × |"


def test_grpo_stands_beside_trls(figures):
    results = {
        **{"model": "m", "env": "e", "completions": 64, "tokens": 16, "trl": "1.9.0", "threads": 1, "updates": 30},
        "cpu_seconds_per_update": {"bitrl fp32": 0.5, "trl": 0.751},
        "ratio_to_trl_in_cpu_seconds": {"bitrl fp32": 1.502},
        "reward": {"bitrl fp32": {"first": 0.25, "last": 0.5}, "trl": {"first": 0.2, "last": 0.4}},
    }
    lines = figures.trl_lines({"command": "python x.py", "results": results})
    assert "64 completions of at most 16 tokens an update, beside TRL 1.9.0's" in lines[0]
    assert lines[-2:] == ["| bitrl fp32 | 0.50 | 1.50 | 0.250 | 0.500 |", "| trl | 0.75 |  | 0.200 | 0.400 |"]


def test_an_updates_parts_are_shares_of_its_time(figures):
    results = {
        **{"model": "m", "env": "e", "completions": 64, "tokens": 16, "full_precision": "fp32"},
        "seconds_by_part": {"fp32": {"generation": 3.0, "update": 1.0}, "int8": {"generation": 1.0, "update": 1.0}},
        "cpu_seconds_per_update": {"fp32": 4.0, "int8": 2.0},
        "int8_step_to_full_precision_in_cpu_seconds": 0.512,
    }
    lines = figures.parts_lines({"command": "python x.py", "results": results})
    assert lines[2] == "| rollout | generation | update | CPU seconds | × fp32's |"
    assert lines[-2:] == ["| fp32 | 75.0% | 25.0% | 4.00 |  |", "| int8 | 50.0% | 50.0% | 2.00 | 0.51 |"]


def test_failing_rewards_and_exported_models_are_sentences(figures):
    results = {"failed": 10_012, "scored": 20_224, "median_update_to_one_without_failures": 1.126}
    (line,) = figures.failing_lines({"command": "python x.py", "results": results})
    assert "10,012 of 20,224 rewards raised" in line
    assert "took 1.13 × as long" in line
    row = {"steps": 512, "backbone": "fp32", "model": "m", "llama_cpp": "b1", "prompts": 32, "same_completions": 31}
    row["relative_error_of_logits"] = 0.00021
    (line,) = figures.exported_lines({"command": "python x.py", "results": [row]})
    assert "31 of 32 greedy completions are the engine's, and logits differ by 2e-04" in line
