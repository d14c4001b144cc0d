"""The commands of docs/profiling.md, one after another, as they stand there but over in a moment."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from bitrl.core.registry import registry

PAGE = (Path(__file__).parents[2] / "docs" / "profiling.md").read_text(encoding="utf-8")
[BLOCK] = re.findall(r"^```sh\n(.*?)^```", PAGE, re.S | re.M)
QUICK = {
    "2048": "64 -o run.num_envs=2 -o algo.rollout_steps=32 -o run.eval_episodes=0 -o backbone.layers=1",
    "2s": "200ms",
}


def test_the_commands_on_the_page_work(tmp_path):
    for line in BLOCK.splitlines():
        words = [part for word in shlex.split(line)[1:] for part in QUICK.get(word, word).split()]
        code = "from bitrl.cli import main, profile; profile.COLD_STARTS = 1; main()"
        command = [sys.executable, "-c", code, *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "profile.json").read_text())["results"]
    assert (found["deadline"]["rate_hz"], found["load"]) == (40, 1)
    assert (tmp_path / "latency.svg").read_text().startswith("<svg")


def test_the_meters_that_it_names_are_there():
    names = {entry.record.name for entry in registry().entries["energy-meter"] if entry.package == "bitrl"}
    assert names
    assert all(f"`{name}`" in PAGE for name in names)
