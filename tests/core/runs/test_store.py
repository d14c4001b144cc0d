"""The run directory: refused when taken, locked while open, whole whatever happens."""

import errno
import json
import os
import subprocess
import sys

import pytest

import bitrl
from bitrl.core import files
from bitrl.core.config import resolve
from bitrl.core.runs.lock import lock
from bitrl.core.runs.store import RunStore

real = os.open

QUICK = {
    "run.backbone": "mlp",
    "run.steps": 256,
    "run.num_envs": 4,
    "run.eval_episodes": 3,
    "algo.rollout_steps": 256,
    "algo.epochs": 1,
}


def config():
    return resolve({"run": {"backbone": "mlp"}})


def test_an_existing_run_is_refused_unless_forced(tmp_path):
    out = tmp_path / "run"
    first = bitrl.run(out=out, options=QUICK)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(
        bitrl.UsageError,
        match=r"already holds a run: continue it with bitrl run --resume .*, or replace it with --force",
    ):
        bitrl.run(out=out, options=QUICK)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert bitrl.run(out=out, options={**QUICK, "run.seed": 1}, force=True)["seed"] == 1 != first["seed"]


def test_a_directory_that_holds_no_run_is_never_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for force in (False, True):
        with pytest.raises(bitrl.UsageError, match="is not empty and does not hold a run"):
            bitrl.run(out=tmp_path, options=QUICK, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_force_leaves_foreign_files_alone(tmp_path):
    out = tmp_path / "run"
    bitrl.run(out=out, options=QUICK)
    (out / "notes.txt").write_text("mine")
    bitrl.run(out=out, options=QUICK, force=True)
    assert (out / "notes.txt").read_text() == "mine"


def test_two_processes_do_not_share_a_run(tmp_path):
    store = RunStore.create(tmp_path / "run", config(), {}, force=False)
    opening = (
        "import sys, pathlib; from bitrl.core.runs.store import RunStore; RunStore.open(pathlib.Path(sys.argv[1]))"
    )
    code = [sys.executable, "-c", opening, str(store.directory)]
    second = subprocess.run(code, capture_output=True, text=True, cwd=tmp_path)
    assert f"is in use by process {os.getpid()}: wait for it, or stop it" in second.stderr
    store.close()
    third = subprocess.run(code, capture_output=True, text=True, cwd=tmp_path)
    assert third.returncode == 0


def test_a_lock_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", lambda *arguments: real("/dev/full", os.O_RDWR))
    monkeypatch.setattr(os, "ftruncate", lambda *arguments: None)  # a device has no length
    with pytest.raises(bitrl.RunFailed, match=r"\.lock: no space left on the disk: free some, or choose another place"):
        lock(tmp_path, tmp_path)


def test_without_a_name_every_run_gets_a_fresh_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [bitrl.run(options=QUICK)["run"] for _ in range(2)]
    assert names == ["runs/CartPole-v1-mlp-vector-ppo-seed0", "runs/CartPole-v1-mlp-vector-ppo-seed0-2"]


def test_without_a_name_where_no_directory_can_be_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(bitrl.RunFailed, match=r"^runs: cannot be written: File exists"):
        bitrl.run(options=QUICK)


def test_the_summary_is_the_returned_one_and_has_the_promised_keys(tmp_path):
    summary = bitrl.run(out=tmp_path / "run", options=QUICK)
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    promised = {
        "run",
        "env",
        "backbone",
        "serializer",
        "algo",
        "seed",
        "steps",
        "train_seconds",
        "steps_per_second",
        "peak_rss_mb",
        "eval",
    }
    assert promised <= set(summary)
    assert set(summary["eval"]) == {"episodes", "mean_return", "std_return"}


def test_the_written_configuration_repeats_the_run(tmp_path):
    first = bitrl.run(out=tmp_path / "a", options={**QUICK, "algo.clip_coef": 0.3, "algo.hidden": [8]})
    again = bitrl.run(out=tmp_path / "b", config=tmp_path / "a" / "config.toml")
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == (tmp_path / "b" / "metrics.jsonl").read_bytes()
    assert first["eval"] == again["eval"]


def test_nothing_is_left_when_a_part_cannot_be_built(tmp_path):
    with pytest.raises(bitrl.UsageError):
        bitrl.run("No-Such-Env-v0", out=tmp_path / "run")
    with pytest.raises(bitrl.UsageError):
        bitrl.run(backbone="bitnet", serializer="vector", out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomically(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(bitrl.RunFailed, match=r"file: no space left on the disk: free some, or choose another place"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_fills_up_while_training_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    out, real, writes = tmp_path / "run", os.fsync, []
    options = {**QUICK, "run.steps": 2048, "run.checkpoint_every": 1}

    def fills_up(descriptor):
        writes.append(descriptor)
        if len(writes) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fills_up)
        with pytest.raises(bitrl.RunFailed, match="no space left on the disk"):
            bitrl.run(out=out, options=options)
    assert not list(out.rglob("*.tmp"))
    assert bitrl.resume(out)["steps"] == 2048
    bitrl.run(out=tmp_path / "straight", options=options)
    assert (out / "metrics.jsonl").read_bytes() == (tmp_path / "straight" / "metrics.jsonl").read_bytes()


def test_ctrl_c_saves_a_checkpoint_and_says_how_to_go_on(tmp_path):
    import signal

    from bitrl.core.events import Updated

    def interrupt(event):
        if isinstance(event, Updated) and event.step == 512:
            signal.raise_signal(signal.SIGINT)

    out, options = tmp_path / "run", {**QUICK, "run.steps": 2048}
    with pytest.raises(bitrl.RunFailed, match=rf"stopped at step 512; continue with: bitrl run --resume {out}"):
        bitrl.run(out=out, options=options, listeners=(interrupt,))
    bitrl.run(out=tmp_path / "straight", options=options)
    bitrl.resume(out)
    assert (out / "metrics.jsonl").read_bytes() == (tmp_path / "straight" / "metrics.jsonl").read_bytes()


def test_a_listening_plugin_that_fails_does_not_stop_the_run(tmp_path, monkeypatch, capsys):
    from bitrl.core.registry import registry

    class Clumsy:
        @bitrl.hookimpl
        def bitrl_event(self, event):
            raise KeyError("oops")

    plugin = Clumsy()
    registry().add(plugin, "clumsy-plugin")
    try:
        bitrl.run(out=tmp_path / "run", options=QUICK)
    finally:
        manager = registry().manager
        for name, _ in manager.list_name_plugin():
            if name.startswith("clumsy-plugin "):
                manager.unregister(name=name)
    assert "warning: plugin clumsy-plugin: bitrl_event failed" in capsys.readouterr().err
