"""Generating with SmolLM2-135M: the engine's formats beside each other, beside transformers and the machine's limits.

    python benchmarks/generation.py

Who is measured takes turns; ratios are of neighbours in one round, medians over rounds. Prompts are random tokens, four
sequences each, as a group of completions has one. A token takes at least as long as its multiply-adds at the format's
limit, and as reading the weights (shared by a step's sequences) and the keys and values kept of its sequence (of its
prompt: shared by its group) from memory: of the two, the longer time is the limit.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from record import save
from smollm2 import reference

from bitrl.plugins.backbones import catalogue
from bitrl.plugins.backbones.benchmark.engine_speed import LIMIT_OF
from bitrl.plugins.backbones.benchmark.limits import Limits, instructions
from bitrl.plugins.backbones.engine.engine import Engine, plan

FORMATS = ("int8", "int4", "bf16", "fp32")
RIVALS = {"transformers fp32": torch.float32, "transformers bf16": torch.bfloat16}
GROUP = 4
LIMIT_SECONDS = 0.1


def prompts_of(sequences: int, length: int, vocabulary: int) -> list[list[int]]:
    """Random prompts, each for GROUP sequences."""
    groups = np.random.default_rng(0).integers(0, vocabulary, (-(-sequences // GROUP), length)).tolist()
    return [groups[i // GROUP] for i in range(sequences)]


def rival(model: Any, prompts: list[list[int]], new: int) -> Callable[[], None]:
    """transformers' generate, sampling from all tokens, as many new ones each."""
    ids = torch.tensor(prompts)
    how = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "eos_token_id": None, "pad_token_id": 0}

    def run() -> None:
        made = model.generate(ids, attention_mask=torch.ones_like(ids), min_new_tokens=new, max_new_tokens=new, **how)
        assert made.shape == (len(prompts), len(prompts[0]) + new)

    return run


def best_rival(path: Path, prompts: list[list[int]]) -> dict[str, Any]:
    """transformers' model in the type in which it generates faster on this CPU."""
    models = {name: reference(path).to(dtype) for name, dtype in RIVALS.items()}
    seconds = {}
    for name, model in models.items():
        run = rival(model, prompts, 4)
        run()  # memory grows
        began = time.perf_counter()
        run()
        seconds[name] = time.perf_counter() - began
    print({name: f"{found:.2f} s for 4 tokens" for name, found in seconds.items()}, flush=True)
    best = min(seconds, key=lambda name: seconds[name])
    return {best: models[best]}


def costs(engine: Engine, prompt: int, new: int) -> tuple[float, float, float]:
    """Of a new token, on average: multiply-adds of products, bytes of weights that a step reads, bytes of the keys and
    values that are its sequence's own."""
    matrices = [tensor for tensor in engine.tensors if tensor.name.startswith("blk.") and tensor.shape[1:]]
    multiplied = sum(math.prod(tensor.shape) for tensor in matrices) + engine.vocabulary * engine.width
    kept = plan(engine.file).cache_bytes_per_token
    return multiplied, engine.bytes_per_token, kept * ((new - 1) / 2 + prompt / GROUP)


def least_seconds(engine: Engine, limits: Limits, sequences: int, prompt: int, new: int) -> tuple[float, str]:
    """What a token takes at least, now, and what binds it."""
    multiplied, weights, kept = costs(engine, prompt, new)
    arithmetic = multiplied / limits.measure(LIMIT_OF[engine.format], engine.threads, LIMIT_SECONDS)
    memory = (weights / sequences + kept) / limits.measure("memory", engine.threads, LIMIT_SECONDS)
    return max((arithmetic, "arithmetic"), (memory, "memory"))


def measure(
    path: Path, models: dict[str, Any], sequences: int, prompt: int, new: int, threads: int, rounds: int
) -> dict[str, Any]:
    """Tokens a second of everyone, and ratios."""
    engines = {format: Engine(path, format, threads=threads) for format in FORMATS}
    limits = Limits(threads, 1 << 29)
    prompts = prompts_of(sequences, prompt, engines["int8"].vocabulary)
    runs: dict[str, Callable[[], Any]] = {name: rival(model, prompts, new) for name, model in models.items()}
    for format, engine in engines.items():
        engine.generate(prompts, 2)  # the head is made ready, pages are touched
        runs[format] = lambda engine=engine: engine.generate(prompts, new)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    fractions: dict[str, list[float]] = {format: [] for format in FORMATS}
    bound = {}
    for _ in range(rounds):
        for name, run in runs.items():
            before = least_seconds(engines[name], limits, sequences, prompt, new) if name in engines else None
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
            if before:
                after = least_seconds(engines[name], limits, sequences, prompt, new)
                least = min(before[0], after[0]) * sequences * new  # what slowed one of them is no limit
                fractions[name].append(least / seconds[name][-1])
                bound[name] = after[1]
        print({name: round(sequences * new / found[-1]) for name, found in seconds.items()}, flush=True)
    full = min(("bf16", "fp32"), key=lambda name: statistics.median(seconds[name]))
    slow = min(models, key=lambda name: statistics.median(seconds[name]), default=None)

    def ratio(fast: str, other: str) -> float:
        return statistics.median(b / a for a, b in zip(seconds[fast], seconds[other], strict=True))

    return {
        "sequences": sequences,
        "tokens_per_second": {name: sequences * new / statistics.median(found) for name, found in seconds.items()},
        "fraction_of_limit": {name: statistics.median(found) for name, found in fractions.items()},
        "bound_by": bound,
        "full_precision": full,
        "int8_to_full_precision": ratio("int8", full),
        "transformers": slow,
        "full_precision_to_transformers": ratio(full, slow) if slow else None,
        "int8_to_transformers": ratio("int8", slow) if slow else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a GGUF file, or a name of `bitrl model list`")
    parser.add_argument("--sequences", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default="generation", help="name of the file in benchmarks/results")
    args = parser.parse_args()
    path = catalogue.resolve(args.model)
    torch.set_num_threads(args.threads)
    with torch.inference_mode():
        models = best_rival(path, prompts_of(GROUP, args.prompt, Engine(path, "int8", layers=1).vocabulary))
        cases = [
            measure(path, models, count, args.prompt, args.new, args.threads, args.rounds) for count in args.sequences
        ]
    print(*cases, sep="\n")
    settings = {"prompt": args.prompt, "new": args.new, "threads": args.threads, "rounds": args.rounds, "group": GROUP}
    limits = {name: how for name, how in instructions().items() if name in ("int8", "bf16", "fp32", "memory")}
    save(args.out, settings | {"transformers": transformers.__version__, "limits": limits, "cases": cases})


if __name__ == "__main__":
    main()
