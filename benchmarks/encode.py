"""States a second through the starter model: JSON texts of CartPole in batches, tokenising included.

    python benchmarks/encode.py [--batch 16]

Splits the time into writing the text, tokenising and the engine, and gives the engine's arithmetic as a fraction of
what `vpdpbusd` alone reaches on one core, measured in turns with it (left out on a CPU without AVX-512 VNNI).
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from record import processor, save

import bitrl

REPEATS, CALLS = 15, 30


def int8_limit() -> ctypes.CDLL | None:
    """The limit's loop, compiled; None where the CPU has no AVX-512 VNNI."""
    if "avx512_vnni" not in processor()["features"]:
        return None
    with tempfile.TemporaryDirectory() as directory:
        library = Path(directory) / "limit.so"
        source = Path(__file__).parent / "int8_limit.c"
        subprocess.run(["cc", "-O3", "-shared", "-fPIC", "-o", library, source], check=True)
        return ctypes.CDLL(str(library))


def seconds(work, calls: int = CALLS) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - began) / calls


def multiply_adds(engine) -> int:
    """Ternary multiply-adds for each token."""
    return sum(
        int(np.prod(tensor.shape)) for tensor in engine.tensors if ".attn_" in tensor.name or ".ffn_" in tensor.name
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    batch = parser.parse_args().batch
    serializer = bitrl.load_serializer("json", env="CartPole-v1")
    states = np.random.default_rng(0).uniform([-2, -2, -0.2, -2], [2, 2, 0.2, 2], (batch, 4)).astype(np.float32)
    limit = int8_limit()
    results: dict = {"batch": batch, "threads": {}}
    for threads in (1, 2):
        backbone = bitrl.load_backbone("bitnet", threads=threads)
        texts = serializer.batch(states)
        ids = [backbone.tokenizer.encode(text).ids for text in texts]
        tokens = sum(map(len, ids))
        parts = {
            "all": lambda backbone=backbone: backbone.encode(serializer.batch(states)),
            "text": lambda: serializer.batch(states),
            "engine": lambda backbone=backbone, ids=ids: backbone.engine.encode(ids, "mean"),
        }
        times: dict[str, list[float]] = {name: [] for name in (*parts, "limit")}
        for _ in range(REPEATS):
            for name, work in parts.items():
                times[name].append(seconds(work))
            if limit is not None:
                times["limit"].append(seconds(lambda: limit.dot_products(ctypes.c_uint64(2_000_000)), 1))
        median = {name: statistics.median(found) for name, found in times.items() if found}
        work = multiply_adds(backbone.engine) * tokens
        row = {
            "texts_per_second": batch / median["all"],
            "tokens_per_text": tokens / batch,
            "microseconds_per_text": {
                "text": 1e6 * median["text"] / batch,
                "tokenizer": 1e6 * (median["all"] - median["text"] - median["engine"]) / batch,
                "engine": 1e6 * median["engine"] / batch,
            },
            "engine_gmac_per_second": work / median["engine"] / 1e9,
        }
        if limit is not None:
            most = 2_000_000 * 12 * 64 / median["limit"] * threads
            row |= {"limit_gmac_per_second": most / 1e9, "peak_fraction": work / median["engine"] / most}
        results["threads"][str(threads)] = row
        print(f"{threads} thread(s): {row}")
    save("encode", results)


if __name__ == "__main__":
    main()
