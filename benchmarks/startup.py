"""How long `bitrl --help` and `bitrl list` take: the median of many, beside Python doing nothing.

python benchmarks/startup.py [REPEATS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from record import save

BITRL = "from bitrl.cli import main; main()"
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "bitrl --help": [sys.executable, "-c", BITRL, "--help"],
    "bitrl list": [sys.executable, "-c", BITRL, "list"],
}


def milliseconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return 1000 * (time.perf_counter() - began)


def main(repeats: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        for name, command in COMMANDS.items():  # interleaved: what else the machine does affects all alike
            times[name].append(milliseconds(command))
    bare = statistics.median(times["python -c pass"])
    print(f"median (fastest) of {repeats} runs")
    for name, found in times.items():
        median = statistics.median(found)
        print(f"{name:<15} {median:6.0f} ms ({min(found):.0f} ms)   {median / bare:4.1f} x python -c pass")
    save("startup", {f"{name} (median ms)": round(statistics.median(found), 1) for name, found in times.items()})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
