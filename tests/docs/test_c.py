"""docs/c.md: its program compiles and acts, its table is what the code says, and make knows its targets."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from c_agents import pair
from c_programs import SANITIZED, build
from tiny_models import TinyModel

from bitrl.core.acting.c_agents import PORTABLE
from bitrl.core.interfaces import Field, ObservationSpec
from bitrl.plugins.serializers import bitrl_serializers

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "c.md").read_text(encoding="utf-8")


def test_the_program_reads_a_sensor_and_acts(tmp_path) -> None:
    (code,) = re.findall(r"^```c\n(.*?)^```", PAGE, re.S | re.M)
    assert 15 <= len([line for line in code.splitlines() if line.strip(" {}")]) <= 20
    (tmp_path / "sensor.c").write_text(code)
    program = build(tmp_path / "sensor", tmp_path / "sensor.c", *SANITIZED, agent=True)
    model = TinyModel(width=48, ffn=80, heads=3, kv_heads=1, blocks=1).write(tmp_path / "tiny.gguf")
    spec = ObservationSpec("Sensor-v0", tuple(Field(f"x{i}") for i in range(4)))
    options = {"model": str(model), "threads": 1}
    made = pair(tmp_path, spec, np.zeros((1, 4), np.float32), "values", {}, options, outputs=2)
    states = np.random.default_rng(0).normal(size=(20, 4)).round(3)
    given = "\n".join(" ".join(map(str, state)) for state in states) + "\nnan 0 0 0\n0 0 0 0"
    done = subprocess.run([program], cwd=tmp_path, input=given, capture_output=True, text=True, check=True)
    words = ["right" if made.python.act(state) > 0 else "left" for state in [*states, np.zeros(4)]]
    assert done.stdout.split() == words
    assert done.stderr == "skipped: observation: expected finite numbers, no NaN or infinity\n"
    (tmp_path / "agent.gguf").unlink()
    done = subprocess.run([program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "agent.gguf cannot be opened: No such file or directory\n")


def test_the_serializers_of_its_table_are_those_that_have_a_form() -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| serializers |")]
    _, _, runs, refused, _ = row.split("|")
    named = set(re.findall("`([a-z]+)`", runs))
    records = {record.name: record for record in bitrl_serializers()}
    found = {name for name, record in records.items() if hasattr(record.load(), "form")}
    assert named == found == set(PORTABLE)
    assert set(re.findall("`([a-z]+)`", refused)) == records.keys() - found | {"natural"}


@pytest.mark.parametrize("target", ["act", "lib"])
def test_make_builds_it_without_python(target) -> None:
    done = subprocess.run(
        ["make", "-n", "-B", target, "AGENT_CC=cc"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    sources = {*re.findall(r"csrc/[a-z_0-9/]+\.c", done.stdout)}
    assert {"csrc/session.c", "csrc/agent/agent.c", "csrc/tokenizer.c"} <= sources
    assert not {"csrc/_engine.c", "csrc/limits.c"} & sources
    assert "pip" not in done.stdout
