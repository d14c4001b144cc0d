"""Run directories on machines as people have them: full, read-only, shared, moved, cut off, edited. The sources of each
are in tests/field/README.md.
"""

import errno
import fcntl
import json
import os
import pty
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import bitrl
from bitrl.core import events
from bitrl.core.acting import checkpoints

OPTIONS = {
    "run.num_envs": 2,
    "run.eval_episodes": 1,
    "run.checkpoint_every": 1,
    "algo.rollout_steps": 32,
    "algo.epochs": 1,
}
RUN = {"env": "CartPole-v1", "backbone": "mlp", "options": OPTIONS}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of four updates, finished."""
    directory = tmp_path_factory.mktemp("made") / "run"
    bitrl.run(steps=128, out=directory, **RUN)
    return directory


@pytest.fixture
def finished(made, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def stopped(finished):
    """It, as it was before its last update."""
    (finished / "summary.json").unlink()
    checkpoints.paths(finished / "checkpoints")[0].unlink()
    return finished


def warnings_of(action):
    """What `action`, given a listener, is warned of."""
    heard = []
    action(lambda event: heard.append(event.message) if isinstance(event, events.Warned) else None)
    return heard


def metrics(run):
    return (run / "metrics.jsonl").read_bytes()


def after(step, action):
    """A listener that acts once, when the run has come to this step."""
    done = []

    def listen(event):
        if isinstance(event, events.Updated) and event.step >= step and not done:
            done.append(step)
            action()

    return listen


# A new run and what lies there


def test_a_linked_folder_of_checkpoints_is_unlinked_and_never_read(finished, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (finished / "checkpoints").rename(elsewhere)
    (finished / "checkpoints").symlink_to(elsewhere)
    before = {path.name: path.read_bytes() for path in elsewhere.iterdir()}
    bitrl.run(steps=64, seed=7, out=finished, force=True, **RUN)
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == before
    assert [path.stem for path in checkpoints.paths(finished / "checkpoints")] == [f"{64:012}", f"{32:012}"]
    assert bitrl.evaluate(finished)["step"] == 64
    assert bitrl.export(finished, tmp_path / "agent")["step"] == 64


def test_an_old_run_that_cannot_be_removed_is_an_error_before_training(finished, monkeypatch):
    def refuse(path, *args, **named):
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(
        bitrl.RunFailed, match=r"checkpoints: cannot be removed: Operation not permitted: make it remov"
    ):
        bitrl.run(steps=64, seed=7, out=finished, force=True, **RUN)
    for use in (bitrl.evaluate, bitrl.resume):  # nothing is left that would pass for the new run
        with pytest.raises(bitrl.UsageError, match="not a run"):
            use(finished)


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json", "config.toml"])
def test_links_and_folders_in_the_place_of_files_are_replaced(finished, tmp_path, name):
    (finished / name).unlink()
    (tmp_path / "thesis.tex").write_text("years of work")
    if name == "config.toml":
        (finished / name).mkdir()
        (finished / name / "inside").touch()
    else:
        (finished / name).symlink_to(tmp_path / "thesis.tex")
    bitrl.run(steps=32, out=finished, force=True, **RUN)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert not (finished / name).is_symlink()
    assert len(metrics(finished).splitlines()) == 1


def test_a_lock_that_is_a_link_is_not_followed(finished, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (finished / ".lock").unlink()
    (finished / ".lock").symlink_to(tmp_path / "thesis.tex")
    with pytest.raises(bitrl.RunFailed, match=r"\.lock: cannot be written: Too many levels of symbolic links"):
        bitrl.run(steps=32, out=finished, force=True, **RUN)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_files_by_other_names_are_no_checkpoints(stopped, made):
    folder = stopped / "checkpoints"
    newest = checkpoints.paths(folder)[0]
    for name in ("9x.safetensors", "99.safetensors", "copy of 000000000128.safetensors"):
        shutil.copy(newest, folder / name)
    (folder / f"{9999:012}.safetensors").mkdir()
    assert checkpoints.paths(folder) == [newest]
    shutil.copy(newest, folder / f"{5000:012}.safetensors")
    heard = []
    bitrl.resume(stopped, (heard.append,))
    skipped = [event.reason for event in heard if isinstance(event, events.CheckpointSkipped)]
    assert skipped == ["it is of step 96, not of the one in its name"]
    assert metrics(stopped) == metrics(made)


# Metrics that are not what they were


def cut(data):
    return data[: len(data) // 2]


DAMAGE = {
    "truncated": (cut, 2),
    "emptied": (lambda data: b"", 3),
    "zeros at the end": (lambda data: cut(data) + bytes(4096), 2),
    "zeros within": (lambda data: data.replace(data.splitlines()[1], bytes(50)), 1),
    "no UTF-8": (lambda data: data.replace(b'{"step": 64', b'\xff\xfe"step": 64'), 1),
    "nested deeply": (lambda data: data.replace(data.splitlines()[0], b"[" * 100_000), 1),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_lost_rows_are_counted_and_the_run_goes_on_exactly(stopped, made, damage):
    change, lost = DAMAGE[damage]
    rows = metrics(made).splitlines()
    (stopped / "metrics.jsonl").write_bytes(change(b"".join(line + b"\n" for line in rows[:3])))
    heard = warnings_of(lambda listener: bitrl.resume(stopped, (listener,)))
    assert len(heard) == 1
    assert f"metrics.jsonl: {lost} of the 3 rows up to step 96 are missing or damaged" in heard[0]
    kept = metrics(stopped).splitlines()
    assert len(kept) == 4 - lost
    assert set(kept) <= set(rows)
    assert kept[-1] == rows[-1]
    assert json.loads((stopped / "summary.json").read_text())["metrics_rows_lost"] == lost


def test_a_missing_log_and_an_edited_row_are_told_apart(stopped, made):
    whole = metrics(made)
    (stopped / "metrics.jsonl").write_bytes(whole.replace(b'"step": 32, ', b'"step": 32, "mine": 1, '))
    (stopped / "timings.jsonl").unlink()
    heard = warnings_of(lambda listener: bitrl.resume(stopped, (listener,)))
    assert "metrics.jsonl: its rows up to step 96 are not those that the run wrote" in heard[0]
    assert "timings.jsonl: 3 of the 3 rows up to step 96 are missing" in heard[1]


def test_rows_are_on_the_disk_before_the_checkpoint_that_covers_them(tmp_path, monkeypatch):
    done, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(os.readlink(f"/proc/self/fd/{fd}")), sync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append(str(new)), replace(old, new))[1])
    bitrl.run(steps=32, out=tmp_path / "run", **RUN)
    names = [Path(each).name for each in done]
    assert names.index("metrics.jsonl") < names.index("timings.jsonl") < names.index(f"{32:012}.safetensors")


def test_a_checkpoint_of_before_that_covers_nothing_still_counts_the_rows(stopped):
    [newest] = checkpoints.paths(stopped / "checkpoints")[:1]
    found = checkpoints.read(newest)
    meta = {name: value for name, value in found.meta.items() if name not in ("metrics", "options")}
    newest.write_bytes(checkpoints.as_bytes(checkpoints.Checkpoint(found.arrays, meta)))
    (stopped / "metrics.jsonl").write_bytes(b"")
    heard = warnings_of(lambda listener: bitrl.resume(stopped, (listener,)))
    assert "3 of the 3 rows" in heard[0]


# Configurations that were edited


@pytest.mark.parametrize("use", [bitrl.resume, bitrl.evaluate, lambda run: bitrl.export(run, run / "agent")])
def test_an_edited_option_is_named_with_both_values(stopped, use):
    config = (stopped / "config.toml").read_text()
    edited = config.replace("num_envs = 2", "num_envs = 4").replace("clip_coef = 0.1", "clip_coef = 0.3")
    (stopped / "config.toml").write_text(edited)
    with pytest.raises(
        bitrl.UsageError,
        match=r"config.toml: was edited .*: run.num_envs was 2 and is 4, algo.clip_coef was 0.1 and is 0.3: write back",
    ):
        use(stopped)


def test_free_options_may_be_edited_and_a_byte_order_mark_is_accepted(stopped, made):
    config = (stopped / "config.toml").read_text()
    edited = config.replace("eval_episodes = 1", "eval_episodes = 2").replace(
        "checkpoint_every = 1", "checkpoint_every = 9"
    )
    (stopped / "config.toml").write_bytes(b"\xef\xbb\xbf" + edited.replace("\n", "\r\n").encode())
    assert bitrl.resume(stopped)["eval"]["episodes"] == 2
    assert metrics(stopped) == metrics(made)


def test_more_steps_train_on_as_if_they_had_been_asked_for(finished, tmp_path):
    with pytest.raises(bitrl.UsageError, match="has already trained for 128 steps: ask for more"):
        bitrl.resume(finished, steps=64)
    assert bitrl.resume(finished, steps=128)["steps"] == 128
    assert bitrl.resume(finished, steps=192)["steps"] == 192
    bitrl.run(steps=192, out=tmp_path / "straight", **RUN)
    assert metrics(finished) == metrics(tmp_path / "straight")
    names = [f"checkpoints/{192:012}.safetensors", f"checkpoints/{160:012}.safetensors"]
    assert all((finished / name).read_bytes() == (tmp_path / "straight" / name).read_bytes() for name in names)
    assert "extended_from = [\n    128,\n]" in (finished / "config.toml").read_text()
    for path in (finished / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(bitrl.UsageError, match="has no checkpoint to go on from"):
        bitrl.resume(finished, steps=256)
    assert bitrl.resume(finished)["steps"] == 192


def test_a_configuration_whose_steps_were_removed_is_that_of_the_default(stopped):
    config = (stopped / "config.toml").read_text()
    (stopped / "config.toml").write_text(config.replace("\nsteps = ", "\n# steps = "))
    assert bitrl.resume(stopped, steps=128)["steps"] == 128
    assert "extended_from" not in (stopped / "config.toml").read_text()
    assert "\nsteps = 128\n" in (stopped / "config.toml").read_text()


def test_more_steps_stretch_a_schedule_and_say_so(tmp_path):
    run = {**RUN, "options": {**OPTIONS, "algo.learning_rate": "linear:1e-3:0"}}
    bitrl.run(steps=32, out=tmp_path / "run", **run)
    heard = warnings_of(lambda listener: bitrl.resume(tmp_path / "run", (listener,), steps=64))
    assert "its schedules are from here on those of 64 steps" in heard[0]


def test_a_damaged_summary_is_made_again(finished, made):
    (finished / "summary.json").write_text('{"run": "x", "steps"')
    heard = warnings_of(lambda listener: bitrl.resume(finished, (listener,)))
    assert "summary.json: is damaged: the run is evaluated again" in heard[0]
    again, first = (json.loads((run / "summary.json").read_text()) for run in (finished, made))
    assert again["eval"] == first["eval"]


# Signals


@pytest.mark.parametrize(("sent", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, made, sent, code):
    out, before = tmp_path / "run", signal.getsignal(signal.Signals[sent])
    raised = after(64, lambda: signal.raise_signal(signal.Signals[sent]))
    with pytest.raises(bitrl.RunFailed, match=r"stopped at step 64; continue with: bitrl run --resume") as caught:
        bitrl.run(steps=128, out=out, listeners=(raised,), **RUN)
    assert caught.value.exit_code == code
    assert signal.getsignal(signal.Signals[sent]) == before
    bitrl.resume(out)
    assert metrics(out) == metrics(made)


def test_a_second_signal_stops_at_once(tmp_path):
    def twice():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt) as stopped:
        bitrl.run(steps=128, out=tmp_path / "run", listeners=(after(64, twice),), **RUN)
    assert stopped.value.signum == signal.SIGTERM  # its exit code, 143


class SignalsInStep50(gymnasium.Env):
    """Of random play before a run."""

    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Discrete(2)
    open, steps = 0, 0

    def __init__(self):
        SignalsInStep50.open += 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        SignalsInStep50.steps += 1
        if SignalsInStep50.steps == 50:
            signal.raise_signal(signal.SIGTERM)
        return np.zeros(2, np.float32), 0.0, False, False, {}

    def close(self):
        SignalsInStep50.open -= 1


def test_a_signal_before_the_run_closes_what_was_made(tmp_path, monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("SignalsInStep50-v0", entry_point=SignalsInStep50)
    monkeypatch.setitem(gymnasium.registry, "SignalsInStep50-v0", spec)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as stopped:
        bitrl.run("SignalsInStep50-v0", steps=128, out=tmp_path / "run", options=OPTIONS)
    assert (stopped.value.signum, signal.getsignal(signal.SIGTERM)) == (signal.SIGTERM, before)
    assert SignalsInStep50.open == 0
    assert not (tmp_path / "run").exists()


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        raised = after(32, lambda: signal.raise_signal(signal.SIGHUP))
        assert bitrl.run(steps=64, out=tmp_path / "run", listeners=(raised,), **RUN)["steps"] == 64
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_closed_leaves_a_saved_run(tmp_path):
    out = tmp_path / "run"
    words = ["run", "--backbone", "mlp", "--steps", "1000000", "--out", str(out)]
    words += [word for name, value in OPTIONS.items() for word in ("-o", f"{name}={value}")]
    program = f"import bitrl.cli; bitrl.cli.main({words!r})"
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", program])
    try:
        shown = b""
        while not (out / "checkpoints").is_dir():
            shown += os.read(terminal, 4096)
    finally:
        os.close(terminal)  # the kernel sends SIGHUP
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 129, shown.decode(errors="replace")
    newest = checkpoints.paths(out / "checkpoints")[0]
    assert checkpoints.read(newest).meta["step"] == json.loads(metrics(out).splitlines()[-1])["step"]


# File systems


def failing(call, error, when=lambda *args: True):
    """`call`, which fails with this errno."""

    def fail(*args, **named):
        if when(*args):
            raise OSError(error, os.strerror(error))
        return call(*args, **named)

    return fail


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_of_and_used(stopped, monkeypatch, capsys, error):
    monkeypatch.setattr(fcntl, "flock", failing(fcntl.flock, error))
    assert bitrl.resume(stopped)["steps"] == 128
    assert "its file system has no locks" in capsys.readouterr().err
    assert bitrl.list_runs(stopped.parent)[0]["status"] == "finished"


def test_directories_that_cannot_be_synced_do_without(tmp_path, monkeypatch):
    def is_directory(descriptor):
        return os.path.isdir(f"/proc/self/fd/{descriptor}")

    monkeypatch.setattr(os, "fsync", failing(os.fsync, errno.EINVAL, is_directory))
    assert bitrl.run(steps=32, out=tmp_path / "run", **RUN)["steps"] == 32


def test_a_read_only_file_system_says_its_own_reason(stopped, monkeypatch):
    monkeypatch.setattr("builtins.open", failing(open, errno.EROFS, lambda path, mode="r", *_: "w" in mode))
    monkeypatch.setattr(os, "unlink", failing(os.unlink, errno.EROFS))
    monkeypatch.setattr(Path, "unlink", failing(Path.unlink, errno.EROFS))
    with pytest.raises(bitrl.RunFailed, match=r"cannot be written: Read-only file system: choose another place"):
        bitrl.resume(stopped)


def test_a_finished_run_is_read_where_nothing_can_be_written(finished, monkeypatch, made):
    monkeypatch.setattr(
        os, "open", failing(os.open, errno.EROFS, lambda path, flags, *_: flags & (os.O_WRONLY | os.O_RDWR))
    )
    assert bitrl.resume(finished)["steps"] == 128
    assert bitrl.evaluate(finished)["step"] == 128


def test_a_disk_that_fills_within_the_log_resumes_exactly(tmp_path, made):
    out, limits = tmp_path / "run", {}

    def fill(event):
        if isinstance(event, events.CheckpointSaved) and event.step == 64:
            limits["before"] = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(metrics(out)) + 20, limits["before"][1]))

    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(bitrl.RunFailed, match=r"metrics.jsonl: cannot be written: File too large"):
            bitrl.run(steps=128, out=out, listeners=(fill,), **RUN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits["before"])
        signal.signal(signal.SIGXFSZ, ignored)
    assert not metrics(out).endswith(b"\n")  # half a row
    bitrl.resume(out)
    assert metrics(out) == metrics(made)


def test_a_directory_that_is_removed_during_the_run_is_one_line(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(bitrl.RunFailed, match=r"run/.*: cannot be written: No such file or directory"):
        bitrl.run(steps=128, out=out, listeners=(after(64, lambda: shutil.rmtree(out)),), **RUN)


def test_an_environment_that_changes_the_working_directory(tmp_path, monkeypatch, made):
    class Moving(gymnasium.Wrapper):
        def reset(self, *, seed=None, options=None):
            os.chdir("/")
            return super().reset(seed=seed, options=options)

    spec = gymnasium.spec("CartPole-v1")
    entry = gymnasium.envs.registration.EnvSpec("Moving-v0", entry_point=lambda **_: Moving(spec.make()))
    monkeypatch.setitem(gymnasium.registry, "Moving-v0", entry)
    monkeypatch.chdir(tmp_path)
    here = Path.cwd()
    summary = bitrl.run("Moving-v0", backbone="mlp", steps=64, out="run", options=OPTIONS)
    assert summary["run"] == "run"
    assert len(metrics(here / "run").splitlines()) == 2
    assert (here / "run" / "summary.json").is_file()


def test_a_run_that_was_moved_goes_on_and_names_its_new_place(finished, tmp_path, monkeypatch):
    finished.rename(tmp_path / "archive")
    assert bitrl.resume(tmp_path / "archive")["run"] == str(tmp_path / "archive")
    monkeypatch.chdir(tmp_path / "archive")
    assert bitrl.evaluate(".")["step"] == 128
    (tmp_path / "archive" / "summary.json").unlink()
    assert bitrl.resume(".")["steps"] == 128


def test_a_second_resume_is_refused_while_the_first_works(stopped):
    answers = []

    def resume_again():
        with pytest.raises(bitrl.UsageError, match=f"is in use by process {os.getpid()}") as caught:
            bitrl.resume(stopped)
        answers.append(caught.value)

    bitrl.resume(stopped, (after(128, resume_again),))
    assert answers


def test_a_clock_that_goes_backwards(tmp_path, monkeypatch, made):
    moments = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: next(moments))
    bitrl.run(steps=128, out=tmp_path / "run", **RUN)
    assert metrics(tmp_path / "run") == metrics(made)


def test_a_directory_whose_name_is_no_utf_8(tmp_path):
    out = tmp_path / os.fsdecode(b"bad\xff")
    bitrl.run(steps=32, out=out, **RUN)
    assert bitrl.resume(out)["run"] == str(out)
    assert bitrl.list_runs(tmp_path)[0]["run"] == str(out)
    with pytest.raises(bitrl.UsageError, match=r'backbone.model: ".*bad\\udcff" is not UTF-8: rename it'):
        bitrl.run(steps=32, out=tmp_path / "other", options={"backbone.model": str(out)})


def test_a_huge_log_is_not_written_again(stopped, made):
    path = stopped / "metrics.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in metrics(made).splitlines()[:3]))
    inode = path.stat().st_ino
    bitrl.resume(stopped)
    assert path.stat().st_ino == inode
    assert metrics(stopped) == metrics(made)


# Many runs


def test_one_damaged_run_does_not_hide_the_others(finished, tmp_path):
    other = Path(shutil.copytree(finished, tmp_path / "other"))
    config = (other / "config.toml").read_text().replace("seed = 0", "seed = 1")
    (other / "config.toml").write_text(config)
    (other / "metrics.jsonl").write_bytes(b"\xff\xfe")
    for name, content in (("z1", b"[run\n"), ("z2", b"\xff")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.toml").write_bytes(content)
    first, second, *broken = bitrl.list_runs(tmp_path)
    assert (first["differs"], second["differs"]) == ({"run.seed": 1}, {"run.seed": 0})
    assert (first["step"], second["step"]) == (0, 128)
    assert [each["status"] for each in broken] == ["damaged", "damaged"]
    assert all("not a TOML file" in each["problem"] for each in broken)


def forge(run, change):
    """Change what the run's newest checkpoint says (its description and arrays), with a checksum that is right."""
    newest, *older = checkpoints.paths(run / "checkpoints")
    for path in older:
        path.unlink()
    (run / "summary.json").unlink(missing_ok=True)
    found = checkpoints.read(newest)
    meta, arrays = dict(found.meta), dict(found.arrays)
    change(meta, arrays)
    newest.write_bytes(checkpoints.as_bytes(checkpoints.Checkpoint(arrays, meta)))
    return newest


FORGERIES = {
    "no starts": lambda meta, arrays: meta.pop("starts"),
    "a start that is none": lambda meta, arrays: meta.update(starts=[None] * len(meta["starts"])),
    "a seed in words": lambda meta, arrays: meta["starts"][0].update(seed="one"),
    "a generator of nothing": lambda meta, arrays: meta["starts"][0].update(seed=None, generator={}),
    "options that are none": lambda meta, arrays: meta.update(options=[1]),
    "updates in words": lambda meta, arrays: meta.update(updates="many"),
    "rows in words": lambda meta, arrays: meta.update(metrics={"rows": "many"}),
    "one environment less": lambda meta, arrays: arrays.update(observations=arrays["observations"][1:]),
    "no actions": lambda meta, arrays: arrays.pop("actions.0"),
    "an action that there is none of": lambda meta, arrays: arrays.update({"actions.0": np.full(3, 10**6)}),
    "weights that are NaN": lambda meta, arrays: arrays.update(
        {(name := "algorithm.policy"): np.full_like(arrays[name], np.nan)}
    ),
    "weights of another dtype": lambda meta, arrays: arrays.update(
        {(name := "algorithm.policy"): arrays[name].astype(np.float64)}
    ),
    "weights of another shape": lambda meta, arrays: arrays.update({(name := "algorithm.policy"): arrays[name][:1]}),
    "no generator": lambda meta, arrays: arrays.pop("algorithm.generator"),
    "features of another width": lambda meta, arrays: arrays.update({"algorithm.mean": np.zeros(1, np.float32)}),
    "steps that differ": lambda meta, arrays: arrays.update({"collector.steps": np.array(7)}),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_checkpoint_that_says_what_cannot_be_is_named_in_a_line(finished, name, capsys):
    path = forge(finished, FORGERIES[name])
    told = []
    with pytest.raises(bitrl.BitrlError) as caught:
        bitrl.resume(finished, listeners=(lambda event: told.append(str(event)),), steps=192)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) <= 500
    assert str(path.parent) in message
    assert str(path) in message or any(path.name in event for event in told)
    assert "tell its authors" not in message


def test_a_configuration_without_provenance_is_told_so(finished):
    config = finished / "config.toml"
    config.write_text(config.read_text().partition("[provenance")[0])
    with pytest.raises(bitrl.UsageError, match=r"config\.toml: lacks \[provenance\.features\]"):
        bitrl.evaluate(finished, episodes=1)


def as_of_0_1(meta, arrays):
    """What 0.1 wrote: PPO kept the statistics of current episodes, starts had no last seed, options were not there."""
    del meta["options"], meta["metrics"]
    for start in meta["starts"]:
        del start["last_seed"]
    arrays["algorithm.step"] = arrays.pop("collector.steps")
    for name in ("returns", "lengths", "resetting"):
        arrays[f"algorithm.episodes.{name}"] = arrays.pop(f"collector.{name}")


def test_a_checkpoint_of_0_1_resumes_to_the_same_bits(finished, tmp_path):
    old = Path(shutil.copytree(finished, tmp_path / "old"))
    forge(old, as_of_0_1)
    results = []
    for run in (finished, old):
        bitrl.resume(run, steps=192)
        newest = checkpoints.read(checkpoints.paths(run / "checkpoints")[0])
        assert newest.meta["step"] == 192
        results.append({name: array.tobytes() for name, array in newest.arrays.items()})
    assert results[0] == results[1]


def test_what_a_component_saves_may_be_infinite(finished):
    """Bounds, best returns before there was one: only the component knows what is wrong."""
    forge(finished, lambda meta, arrays: arrays.update({"algorithm.best": np.array([-np.inf, np.nan])}))
    assert bitrl.resume(finished, steps=192)["steps"] == 192
