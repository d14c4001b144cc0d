"""Keeps a benchmark's figures with what made them: command, commit, versions, seeds, processor."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bitrl.core.provenance import versions

RESULTS = Path(__file__).parent / "results"
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimd", "asimddp")


def processor() -> dict[str, Any]:
    """The processor's name, the CPUs this process may use, and the instruction sets that matter here."""
    name, flags = "unknown", set()
    if Path("/proc/cpuinfo").is_file():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                name = value
            elif key in ("flags", "Features"):
                flags = set(value.split())
    return {"name": name, "cpus": len(os.sched_getaffinity(0)), "features": [f for f in FEATURES if f in flags]}


def save(name: str, results: Any) -> Path:
    """Write `results` to results/NAME.json with the command line, commit, versions and processor; return the path."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=RESULTS, check=False)
    path = RESULTS / f"{name}.json"
    record = {
        "command": "python " + shlex.join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": git.stdout.strip(),
        "versions": {key: value for key, value in versions().items() if key != "platform"},
        "processor": processor(),
        "results": results,
    }
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path
