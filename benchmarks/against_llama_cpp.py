"""Encoding and decoding against llama.cpp, interleaved: one file of random TQ2_0 weights in the shape of 2B-4T.

    python -m venv rival && rival/bin/pip install --no-binary llama-cpp-python llama-cpp-python
    python benchmarks/against_llama_cpp.py --rival-python rival/bin/python

The file's architecture is "bitnet" with SiLU, which is what llama.cpp runs under that name, so both do the same
arithmetic; how near their results are (the cosine of the last token's normalised state; activations are rounded to 8
bits in groups of 256 by one and by the token by the other) is in the results. llama.cpp computes the output head and
the last block's feed-forward network for the last token alone when it encodes, and samples nothing when it decodes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from record import save

from bitrl.plugins.backbones.benchmark import footprint
from bitrl.plugins.backbones.benchmark.random_model import random_model, random_shape
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.engine.generation import Sequences

ENCODED, PROMPT, DECODED = 32, 8, 32
PAUSE_SECONDS = 0.1  # threads of either may spin for a while after their work


class Rival:
    """The worker: a request in, an answer out."""

    def __init__(self, python: str, path: Path, *options: str) -> None:
        worker = Path(__file__).with_name("llama_cpp_worker.py")
        self.process = subprocess.Popen(
            [python, str(worker), str(path), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the rival's process ended: run llama_cpp_worker.py by hand to see why")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def agreement(engine: Engine, rival: Rival, tokens: list[int]) -> float:
    """The cosine between both last states, after the final norm."""
    ours = engine.encode([tokens], "none")[-1].astype(np.float64)
    ours *= engine.file.weights("output_norm.weight")
    theirs = np.array(rival.ask(do="features", tokens=tokens)["features"])
    return float(ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs))


def ours_encode(engine: Engine, tokens: list[int]) -> float:
    engine.encode([[(tokens[0] + 1) % engine.vocabulary]])  # or it would go on from the same text
    began = time.perf_counter()
    engine.encode([tokens])
    return time.perf_counter() - began


def ours_decode(engine: Engine, tokens: list[int]) -> float:
    """As many steps as the rival takes, logits and the likeliest token included; the prompt is not timed."""
    sequences = Sequences(engine)
    (cache,), logits = sequences.read([tokens[:PROMPT]], len(tokens))
    began = time.perf_counter()
    for _ in tokens[PROMPT:]:
        sequences.extend([cache], [[int(logits[0].argmax())]], logits)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rival-python", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--model", default="bitnet-2b-4t", help="a shape: bitnet-2b-4t or WIDTHxFFNxBLOCKS")
    parser.add_argument("--format", default="ternary")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", default="llama-cpp", help="name of the file in benchmarks/results")
    args = parser.parse_args()
    shape = attrs.evolve(random_shape(args.model), architecture="bitnet", activation="silu")
    rng = np.random.default_rng(0)
    encoded = rng.integers(0, shape.vocabulary, ENCODED).tolist()
    decoded = rng.integers(0, shape.vocabulary, PROMPT + DECODED).tolist()
    with random_model(shape) as path:
        engines = {threads: Engine(path, args.format, threads=threads) for threads in args.threads}
        rival = Rival(args.rival_python, path)
        cosine = agreement(engines[args.threads[0]], rival, encoded)
        print(f"cosine of the results: {cosine:.4f}")
        rows = []
        tasks = [("encode", ENCODED, encoded, ours_encode), ("decode", DECODED, decoded, ours_decode)]
        for task, count, tokens, ours in tasks:
            for threads, engine in engines.items():
                times: dict[str, list[float]] = {"bitrl": [], "llama_cpp": []}
                for _ in range(args.rounds):
                    times["llama_cpp"].append(rival.ask(do=task, tokens=tokens, threads=threads)["seconds"])
                    time.sleep(PAUSE_SECONDS)
                    times["bitrl"].append(ours(engine, tokens))
                    time.sleep(PAUSE_SECONDS)
                speed = {who: count / statistics.median(found) for who, found in times.items()}
                ratios = [theirs / our for theirs, our in zip(times["llama_cpp"], times["bitrl"], strict=True)]
                row = {
                    "case": f"{task} {count} tokens",
                    "threads": threads,
                    "bitrl_tokens_per_second": speed["bitrl"],
                    "llama_cpp_tokens_per_second": speed["llama_cpp"],
                    "ratio": statistics.median(ratios),
                    "ratio_range": [min(ratios), max(ratios)],
                }
                rows.append(row)
                print(row)
        about = rival.ask(do="about")
        rival.close()
        isa = engines[args.threads[0]].isa
        engines.clear()
        load = footprint.measure(path, args.format, isa, max(args.threads), ENCODED)
    results = {
        "model": args.model,
        "format": args.format,
        "isa": isa,
        "rounds": args.rounds,
        "rival": {"name": "llama-cpp-python", "version": about["version"], "type": "TQ2_0", "build": about["build"]},
        "cosine_of_last_state": cosine,
        "cases": rows,
        "bitrl_peak_rss_mb": load["peak_rss_mb"],
        "llama_cpp_peak_rss_mb": about["peak_rss_mb"],
    }
    save(args.out, results)


if __name__ == "__main__":
    main()
