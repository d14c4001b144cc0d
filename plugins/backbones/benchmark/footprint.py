"""What loading a model and encoding with it takes, in a process of its own: seconds and peak memory.

`python -m bitrl.plugins.backbones.benchmark.footprint FILE FORMAT ISA THREADS TOKENS` prints one JSON object. It
imports what an agent at work needs, the engine and numpy, but not torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bitrl.core.errors import RunFailed


def measure(path: Path, format: str, isa: str, threads: int, tokens: int) -> dict[str, Any]:
    """Load `path` and encode `tokens` tokens in a fresh process: `load_seconds` and `peak_rss_mb`.

    Raises:
        RunFailed: it ended otherwise, for example because memory ran out.
    """
    command = [sys.executable, "-P", "-m", __name__, str(path), format, isa, str(threads), str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or [f"it was ended by signal {-done.returncode}"])[-1]
        raise RunFailed(f"{path}: loading it in {format} in a process of its own failed: {why}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(path: str, format: str, isa: str, threads: str, tokens: str) -> None:
    """The process: load, encode, print."""
    from bitrl.core.runs.provenance import peak_rss_mb
    from bitrl.plugins.backbones.engine.engine import Engine

    began = time.perf_counter()
    engine = Engine(path, format, threads=int(threads), isa=isa)
    loaded = time.perf_counter()
    engine.encode([[i % engine.vocabulary for i in range(int(tokens))]])
    torch = "torch" in sys.modules
    print(json.dumps({"load_seconds": loaded - began, "peak_rss_mb": peak_rss_mb(), "torch_imported": torch}))


if __name__ == "__main__":
    main(*sys.argv[1:])
