"""How long commands take to start, the median of many, beside Python doing nothing; and the memory of a training.

python benchmarks/startup.py [REPEATS]

`bitrl run` is a whole run of CartPole with a single step and no evaluation, written to disk as any other: longer than
the time to the first step of the environment. Memory is the peak of a process that trains for two of its rollouts.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import save

BITRL = [sys.executable, "-c", "from bitrl.cli import main; main()"]
ONE = ["-o", "run.num_envs=1", "-o", "algo.rollout_steps=1", "-o", "run.eval_episodes=0", "--steps", "1"]
RUNS = {"starter, JSON": ["--backbone", "bitnet", "--serializer", "json"], "mlp": ["--backbone", "mlp"]}
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "bitrl --help": [*BITRL, "--help"],
    "bitrl list": [*BITRL, "list"],
    **{f"bitrl run ({name})": [*BITRL, "run", *of, *ONE, "--quiet", "--force"] for name, of in RUNS.items()},
}


def milliseconds(command: list[str], folder: Path) -> float:
    command = [*command, "--out", str(folder / "run")] if "run" in command else command
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return 1000 * (time.perf_counter() - began)


def peak_megabytes(arguments: list[str], folder: Path) -> float:
    command = [*BITRL, "run", *arguments, "--steps", "4096", "--json", "--force", "--out", str(folder / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["peak_rss_mb"])


def main(repeats: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as place:
        for _ in range(repeats):
            for name, command in COMMANDS.items():  # interleaved: what else the machine does affects all alike
                times[name].append(milliseconds(command, Path(place)))
        memory = {name: peak_megabytes(arguments, Path(place)) for name, arguments in RUNS.items()}
    bare = statistics.median(times["python -c pass"])
    print(f"median (fastest) of {repeats} runs")
    for name, found in times.items():
        median = statistics.median(found)
        print(f"{name:<26} {median:6.0f} ms ({min(found):.0f} ms)   {median / bare:4.1f} x python -c pass")
    for name, megabytes in memory.items():
        print(f"{f'training ({name})':<26} {megabytes:6.0f} MB")
    medians = {f"{name} (median ms)": round(statistics.median(found), 1) for name, found in times.items()}
    save("startup", medians | {f"training, {name} (peak MB)": megabytes for name, megabytes in memory.items()})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
