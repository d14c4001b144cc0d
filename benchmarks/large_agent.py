"""What an agent on a model of BitNet b1.58 2B-4T's shape takes while it acts: memory and latency, by format.

    make act && python benchmarks/large_agent.py [--duration 20s]

Weights are random; the tokenizer is the starter's. Three states of CartPole as JSON are read together, 41 tokens. The
heads are those of a run of a few steps, whose export `bitrl profile` lets act in a process of its own. With all blocks
in 1.6 and 2 bits and in bf16, and with the first four; of ternary weights also by `bitrl-act`, without Python. Takes
4 GB of disk and 6 GB of memory, and some minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from record import save
from whole_run import BITRL, SHAPES, model_of_shape, run

from bitrl.plugins.backbones.benchmark.random_model import RandomShape
from bitrl.plugins.backbones.files.model_file import ModelFile
from bitrl.plugins.backbones.files.tokenizer import tokenizer_of

TEXT = '{"cart_position": -0.050, "cart_velocity": 0.049, "pole_angle": 0.027, "pole_velocity": -0.042}'
FORMS = {
    "1.6 bits": ("bitnet", ("backbone.bits=1.6",)),
    "2 bits": ("bitnet", ("backbone.bits=2",)),
    "bf16": ("bf16", ()),
}
LAYERS = (None, 4)
STATES = 3
PROGRAM = Path(__file__).parents[1] / "build" / "bitrl-act"
ACTS = 30
SMALL = (
    f"run.history={STATES}",
    "run.num_envs=2",
    "algo.rollout_steps=4",
    "algo.minibatch_size=4",
    "run.eval_episodes=0",
)


def bitrl(*arguments: str) -> str:
    """What a command of bitrl prints, in a process of its own."""
    command = [sys.executable, "-c", BITRL, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def acting(folder: Path, model: Path, backbone: str, options: tuple[str, ...], duration: str) -> dict[str, Any]:
    """Memory and latency of an agent with these options, one state at a time."""
    given = [word for option in (f"backbone.model={model}", *options, *SMALL) for word in ("-o", option)]
    run(folder / "run", "--backbone", backbone, "--steps", "4", *given)
    agent = folder / "agent.safetensors"
    bitrl("export", str(folder / "run"), "--out", str(agent), "--force")
    found = json.loads(bitrl("profile", str(agent), "--duration", duration, "--json"))["results"]
    latency = {name: found["latency_ms"]["act"][name] for name in ("p50", "p99")}
    return {
        "peak_rss_mb": round(found["memory"]["peak_rss_mb"], 1),
        "pss_mb": round(found["memory"]["pss_mb"], 1),
        "latency_ms": {name: round(value, 2) for name, value in latency.items()},
        "acts": found["acts"],
        "threads": found["threads"],
    }


def without_python(folder: Path) -> dict[str, Any]:
    """The same of the run's agent by bitrl-act, on two threads: its peak memory, and the time of an action."""
    agent, rng, times = folder / "agent.gguf", np.random.default_rng(0), []
    bitrl("export", str(folder / "run"), "--out", str(agent), "--c", "--force")
    command = [PROGRAM, agent, "--threads", "2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for state in rng.normal(0, 0.05, (ACTS, 4)).round(3).tolist():
            began = time.perf_counter()
            process.stdin.write(f"{json.dumps(state)}\n")
            assert process.stdout.readline()
            times.append(1000 * (time.perf_counter() - began))
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.stdin.close()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    later = sorted(times[STATES:])  # the first ones read fewer states
    latency = {"p50": round(statistics.median(later), 2), "p99": round(later[-1], 2)}
    return {"peak_rss_mb": round(peak / 1000, 1), "latency_ms": latency, "acts": len(later), "threads": 2}


def measured(folder: Path, shape: RandomShape, duration: str) -> dict[str, Any]:
    """Of a model of this shape in each form, with all blocks and with four."""
    model = folder / "random.gguf"
    model_of_shape(model, shape)
    found: dict[str, Any] = {"tokens": len(tokenizer_of(ModelFile(model)).encode("\n".join([TEXT] * STATES)).ids)}
    for layers in LAYERS:
        forms: dict[str, Any] = {}
        for form, (backbone, options) in FORMS.items():
            more = () if layers is None else (f"backbone.layers={layers}",)
            forms[form] = acting(folder, model, backbone, (*options, *more), duration)
            print(f"{layers or 'all'} layers, {form}: {forms[form]}", flush=True)
            if backbone == "bitnet":
                forms[f"{form}, without Python"] = without_python(folder)
                print(f"without Python: {forms[f'{form}, without Python']}", flush=True)
        bf16, ternary = forms["bf16"], forms["1.6 bits"]
        forms["bf16 / 1.6 bits"] = {
            "peak_rss": round(bf16["peak_rss_mb"] / ternary["peak_rss_mb"], 2),
            "p50": round(bf16["latency_ms"]["p50"] / ternary["latency_ms"]["p50"], 2),
        }
        found["all layers" if layers is None else f"{layers} layers"] = forms
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duration", default="20s")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = measured(Path(place), SHAPES["bitnet-2b-4t"], given.duration)
    print(json.dumps(found, indent=2))
    save("large-agent", found)


if __name__ == "__main__":
    main()
