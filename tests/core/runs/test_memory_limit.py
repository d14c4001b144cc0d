"""--memory-limit: planned for before the start, refused with its numbers, kept to while running.

What is measured is a process's resident memory, so each run that counts has a process of its own.
"""

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import bitrl
from bitrl.core.acting.cache import Cache
from bitrl.core.config import resolve
from bitrl.core.errors import UsageError
from bitrl.core.process_memory import MB
from bitrl.core.runs import memory_limit, train
from bitrl.core.runs.memory_limit import MemoryLimit
from bitrl.plugins.backbones.benchmark.random_model import SHAPES, random_model

BITRL = "from bitrl.cli import main; main()"
SMALL = ("--steps", "512", "-o", "algo.rollout_steps=128", "-o", "run.num_envs=4", "-o", "run.eval_episodes=2")


def command(folder, *arguments, before="", script=BITRL):
    """Run the command line in `folder` in a process of its own, behind a shell's `before`."""
    line = f'{before}\nexec "$@"'
    called = ["/bin/bash", "-c", line, "bash", sys.executable, "-c", script, *map(str, arguments)]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(called, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def unlimited(tmp_path_factory):
    """A run without a limit."""
    folder = tmp_path_factory.mktemp("unlimited")
    done = command(folder, "run", *SMALL, "--out", "r")
    assert done.returncode == 0, done.stderr
    return folder / "r"


@pytest.mark.parametrize("typed", ["300", "-1MB", "1e99GB", "lots", "0MB"])
def test_what_is_no_size_is_refused(typed):
    with pytest.raises(UsageError, match=r'run.memory_limit: expected a string such as "300MB" .* got "'):
        resolve({"run": {"memory_limit": typed}})


def test_a_run_under_a_limit_learns_the_same_in_what_it_planned(tmp_path, unlimited):
    """In an address space of 1 GB, with a cache that would be larger: the cache is made smaller, and that is said."""
    asked = ("-o", "backbone.cache_mb=4000", "--memory-limit", "120MB")
    done = command(tmp_path, "run", *SMALL, *asked, "--out", "r", before="ulimit -v 1000000")
    assert done.returncode == 0, done.stderr
    [line] = re.findall(r"^memory: .*$", done.stderr, re.M)
    assert re.fullmatch(
        r"memory: 120 MB of 120 MB planned: Python and libraries \d+ MB, model \d+ MB, environments [\d.]+ MB, "
        r"learner [\d.]+ MB, other [\d.]+ MB, rollout [\d.]+ MB, cache \d+ MB \(made smaller, from 4,000 MB\)",
        line,
    )
    found = summary(tmp_path / "r")
    assert found["peak_rss_mb"] <= found["memory_plan_mb"]["limit"] == 120
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == (unlimited / "metrics.jsonl").read_bytes()
    planned = sum(size for name, size in found["memory_plan_mb"].items() if name not in ("limit", "cache"))
    assert found["peak_rss_mb"] - found["cache"]["bytes"] / MB <= planned < 1.5 * found["peak_rss_mb"]


def test_a_limit_that_cannot_be_kept_is_refused_with_the_numbers_and_nothing_is_written(tmp_path, unlimited):
    done = command(tmp_path, "run", *SMALL, "--memory-limit", "40MB", "--out", "r")
    assert done.returncode == 2
    assert re.fullmatch(
        r"Error: run.memory_limit: 40MB is \d+ MB too little, without a cache of features: Python and libraries "
        r"\d+ MB, model \d+ MB, environments [\d.]+ MB, learner [\d.]+ MB, rollout [\d.]+ MB: raise it "
        r"\(--memory-limit SIZE\), or take fewer run.num_envs \(now 4\), a smaller algo.rollout_steps or a smaller "
        r"model\n",
        done.stderr,
    )
    assert len(done.stderr) <= 508
    assert [*tmp_path.iterdir()] == []
    for what in (["run", "--resume"], ["eval"]):
        done = command(tmp_path, *what, unlimited, "--memory-limit", "40MB", *(["--steps", 2048] * (len(what) > 1)))
        assert (done.returncode, done.stdout) == (2, ""), done
        assert "too little" in done.stderr


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(tmp_path, monkeypatch):
    """Of the shape of BitNet 2B, whose weights nobody reads: they are not there."""
    monkeypatch.setattr(train, "build", lambda config: pytest.fail("was loaded"))
    with random_model(SHAPES["bitnet-2b-4t"], empty=True) as path:
        for bits, least, most in (("2", 497, 600), ("1.6", 398, 500)):
            found = MemoryLimit(
                resolve({"run": {"memory_limit": "8GB"}, "backbone": {"model": str(path), "bits": bits}})
            )
            assert least < found.plan.parts["model"] / MB < most
        monkeypatch.setattr(memory_limit.process_memory, "resident", lambda: 80 * MB)
        with pytest.raises(UsageError, match=r"300MB is \d+ MB too little.* model 5\d\d MB"):
            bitrl.run(out=tmp_path / "r", memory_limit="300MB", options={"backbone.model": str(path)})
    assert not (tmp_path / "r").exists()


LEAK = """
import sys
import bitrl
from bitrl.core import events

kept = []

def leak(event):
    if isinstance(event, events.Updated):
        kept.append(bytearray(b"x") * (24 * 2**20))
    elif isinstance(event, events.Warned):
        print("warned", event.message)

options = {"algo.rollout_steps": 128, "run.num_envs": 4, "run.eval_episodes": 2, "run.checkpoint_every": 100}
limit = None if sys.argv[1] == "none" else sys.argv[1]
try:
    summary = bitrl.run(steps=int(sys.argv[2]), out="r", memory_limit=limit, options=options, listeners=(leak,))
except bitrl.RunFailed as error:
    print("stopped", error)
"""


def test_the_cache_gives_way_then_the_run_is_saved_and_stops(tmp_path, unlimited):
    """A listener takes 24 MB in every update."""
    done = command(tmp_path, "110MB", 2048, script=LEAK)
    assert done.returncode == 0, done.stderr
    warned, stopped = done.stdout.splitlines()
    assert re.fullmatch(
        r"warned memory reached \d+ MB of 110 MB \(memory_limit\): the feature cache gives way, [\d.]+ MB to [\d.]+ MB",
        warned,
    )
    assert re.fullmatch(
        r"stopped stopped at step [\d,]+, saved: memory reached \d+ MB of 110 MB \(memory_limit\), [\d.]+ MB too much "
        r'with no cache left; go on with more: bitrl.resume\("r", memory_limit="\d+MB"\)',
        stopped,
    )
    rows = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    step = json.loads(rows[-1])["step"]
    assert step <= 512
    assert [path.name for path in (tmp_path / "r" / "checkpoints").iterdir()] == [f"{step:012d}.safetensors"]
    done = command(tmp_path, "run", "--resume", "r", "--steps", "512", "--memory-limit", "200MB")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == (unlimited / "metrics.jsonl").read_bytes()
    assert 'memory_limit = "200MB"' in (tmp_path / "r" / "config.toml").read_text()
    assert summary(tmp_path / "r")["memory_plan_mb"]["limit"] == 200
    done = command(tmp_path, "eval", "r", "--memory-limit", "none")
    assert (done.returncode, "memory:" in done.stderr) == (0, False)
    done = command(tmp_path, "eval", "r")
    assert (done.returncode, "memory: " in done.stderr) == (0, True)


@pytest.fixture
def machine(monkeypatch):
    """What the system says of memory."""
    said = types.SimpleNamespace(resident=90 * MB, peak=90 * MB, given_back=0)
    monkeypatch.setattr(memory_limit.process_memory, "resident", lambda: said.resident)
    monkeypatch.setattr(memory_limit.process_memory, "peak", lambda: said.peak)

    def give_back():
        said.given_back += 1

    monkeypatch.setattr(memory_limit.process_memory, "give_back", give_back)
    return said


class Reader:
    """A reader whose backbone has a cache of about so many MB."""

    critic = None

    def __init__(self, size):
        self.backbone = Caching(size)


class Caching:
    width, identity = 1000, {}

    def __init__(self, size):
        self.cache = Cache(2 * size * MB)
        texts = [str(i) for i in range(size * 2**20 // 4410)]
        self.cache.rows(texts, lambda given: np.ones((len(given), 1000), np.float32))

    def encode(self, inputs):
        raise NotImplementedError


def test_a_peak_between_two_updates_counts_once(machine):
    limit = MemoryLimit(resolve({"run": {"memory_limit": "128MB", "backbone": "mlp"}}))
    reader, machine.given_back = Reader(8), 0
    assert limit.exceeded(reader) == ("", "")
    machine.peak = 130 * MB
    gave_way, too_much = limit.exceeded(reader)
    assert re.fullmatch(r"memory reached 130 MB of 128 MB .*: the feature cache gives way, 8.0 MB to 4.0 MB", gave_way)
    assert (too_much, machine.given_back) == ("", 1)
    assert limit.exceeded(reader) == ("", ""), "resident memory has fallen"
    assert 3.5 * MB < reader.backbone.cache.bytes < reader.backbone.cache.budget + 1 <= 4 * MB + 1
    machine.peak = 140 * MB
    gave_way, too_much = limit.exceeded(reader)
    assert gave_way == "", "said once"
    assert "8.0 MB too much with no cache left" in too_much
    assert reader.backbone.cache.bytes == 0


UNDECLARED = """
import bitrl
import numpy as np

class Heavy:
    width, identity = 8, {"heavy": 1}

    def __init__(self, options, width):
        self.weights = np.ones((40, 2**18), np.float32)

    def encode(self, inputs):
        return np.tile(self.weights[0, :8], (len(inputs), 1)) * np.array([[len(text)] for text in inputs], np.float32)

@bitrl.hookimpl
def bitrl_backbones():
    yield bitrl.BackboneRecord(name="heavy", summary="", target="heavy:Heavy")
"""


def test_what_declares_nothing_is_measured(tmp_path):
    info = tmp_path / "site" / "heavy-1.0.dist-info"
    info.mkdir(parents=True)
    (tmp_path / "site" / "heavy.py").write_text(UNDECLARED)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: heavy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bitrl]\nheavy = heavy\n")
    before = f"export PYTHONPATH={tmp_path / 'site'}"
    arguments = ("run", *SMALL, "--backbone", "heavy", "--out", "r", "--memory-limit")
    done = command(tmp_path, *arguments, "300MB", before=before)
    assert done.returncode == 0, done.stderr
    assert 38 < summary(tmp_path / "r")["memory_plan_mb"]["model"] < 60
    done = command(tmp_path, *arguments, "70MB", "--force", before=before)
    assert done.returncode == 2, done.stderr
    assert re.search(r"70MB is \d+ MB too little.* model 4\d MB", done.stderr)
    assert summary(tmp_path / "r")["memory_plan_mb"]["limit"] == 300, "the run that was there stays"


TAKEN = """
import attrs, sys
from bitrl.core.process_memory import MB, peak, resident
from bitrl.plugins.backbones import TernaryOptions, LanguageModelOptions
from bitrl.plugins.backbones import language_model, engine
from bitrl.plugins.backbones.tools import model_memory
name, threads = sys.argv[1:]
options = (TernaryOptions if name == "ternary" else LanguageModelOptions)(threads=int(threads), cache_mb=0)
before = resident()
declared = getattr(model_memory, name)(options, 4).model
model = getattr(language_model, name)(options, 4)
texts = [f'{{"cart_position": {i / 1000:.3f}, "cart_velocity": {i * i % 997 / 100:.3f}}} ' * 6 for i in range(64)]
model.encode(texts)
print(declared / MB, (peak() - before) / MB)
"""


@pytest.mark.parametrize(("format", "threads"), [("ternary", 2), ("bf16", 1)])
def test_a_model_takes_no_more_than_its_header_says(format, threads, tmp_path):
    done = command(tmp_path, format, threads, script=TAKEN)
    assert done.returncode == 0, done.stderr
    declared, taken = map(float, done.stdout.split())
    assert 0.4 * declared < taken <= declared


def writable_cgroup():
    """A cgroup of version 2 whose memory may be limited here, or None."""
    root = Path("/sys/fs/cgroup")
    try:
        if "memory" not in (root / "cgroup.subtree_control").read_text().split():
            return None
        group = root / f"bitrl-test-{os.getpid()}"
        group.mkdir()
        return group
    except OSError:
        return None


def test_in_a_control_group_of_that_size_nothing_is_killed(tmp_path):
    group = writable_cgroup()
    if group is None:
        pytest.skip("no memory controller of cgroup v2 can be written")
    try:
        (group / "memory.max").write_text(str(140 * MB))
        (group / "memory.swap.max").write_text("0")
        asked = ("--memory-limit", "120MB", "-o", "backbone.cache_mb=4000")
        done = command(tmp_path, "run", *SMALL, *asked, "--out", "r", before=f"echo $$ > {group}/cgroup.procs")
        assert done.returncode == 0, done.stderr
        assert summary(tmp_path / "r")["peak_rss_mb"] <= 120
        assert "oom_kill 0" in (group / "memory.events").read_text()
    finally:
        group.rmdir()
