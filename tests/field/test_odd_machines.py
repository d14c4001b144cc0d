"""Machines that are not like a developer's, each after a public report (README.md, Machines): a run goes as it does
elsewhere, or ends with one line that names the cause.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = "from bitrl.cli import main; main()"
RUN = (
    "run --backbone mlp --serializer vector --steps 64 --out r -o run.eval_episodes=1 -o run.num_envs=2 "
    "-o algo.rollout_steps=32 -o run.loggers=csv"
)


def bitrl(folder: Path, command: str, before: str = "", after: str = "", **environment: str | None):
    """Run a command in `folder` as a shell does, behind `before` (limits, a mask), with these variables."""
    python = f"{shlex.quote(sys.executable)} {environment.pop('flags', '')} -c {shlex.quote(PROGRAM)}"
    variables = {**os.environ, **{name: value for name, value in environment.items() if value is not None}}
    for name, value in environment.items():
        if value is None:
            variables.pop(name, None)
    line = f"{before}\n{python} {command} {after}"
    return subprocess.run(["/bin/bash", "-c", line], cwd=folder, env=variables, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """The metrics of the same run on a machine like ours."""
    folder = tmp_path_factory.mktemp("elsewhere")
    assert bitrl(folder, RUN).returncode == 0
    return (folder / "r" / "metrics.jsonl").read_bytes()


MACHINES = {
    "no home, nothing on PATH, no temporary directory, ascii, a dumb terminal, an odd time zone": {
        "HOME": None, "XDG_CACHE_HOME": None, "PATH": "", "TMPDIR": "/nowhere", "TEMP": "/nowhere", "LC_ALL": "C",
        "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TERM": "dumb", "TZ": "Nowhere/Odd",
    },
    "a home that cannot be written, warnings are errors, few columns, no colour, random hashes": {
        "HOME": "/proc/nothing", "XDG_CACHE_HOME": None, "PYTHONWARNINGS": "error", "COLUMNS": "20", "NO_COLOR": "1",
        "PYTHONHASHSEED": "random",
    },
    "isolated from the user's variables, asserts and docstrings stripped": {"flags": "-I -OO"},
}  # fmt: skip


@pytest.mark.parametrize("machine", MACHINES)
def test_a_run_is_the_same_on_a_machine(machine: str, tmp_path, elsewhere) -> None:
    done = bitrl(tmp_path, RUN, **MACHINES[machine])
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert b"mean return" in done.stdout
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == elsewhere


def test_modules_in_the_working_directory_named_like_pythons_are_left_alone(tmp_path, elsewhere) -> None:
    for name in ("json", "random", "numpy", "click", "torch", "types"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')")
    script = tmp_path / "bin" / "bitrl"  # as a console script starts: its own folder is on the path, not this one
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\n{PROGRAM}\n")
    script.chmod(0o755)
    done = subprocess.run([script, *shlex.split(RUN)], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == elsewhere


def test_a_strict_umask_and_few_open_files_are_enough_for_many_environments(tmp_path) -> None:
    many = RUN.replace("num_envs=2", "num_envs=200").replace("rollout_steps=32", "rollout_steps=1")
    done = bitrl(tmp_path, many, before="umask 077; ulimit -n 40")
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "r").rglob("*"))


@pytest.mark.parametrize(
    ("before", "more", "cause"),
    [
        ("ulimit -v 300000", "-o algo.hidden=4000,4000", rb"out of memory: make room .*ulimit -v"),
        ("ulimit -v 300000", "-o algo.hidden=3000,3000", rb"out of memory: make room .*ulimit -v"),  # in the engine
        ("ulimit -f 8", "", rb"cannot be written: File too large: choose another place with --out"),
    ],
)
def test_limits_that_are_too_low_are_named_in_one_line(before: str, more: str, cause: bytes, tmp_path) -> None:
    done = bitrl(tmp_path, f"{RUN} {more} --quiet", before=f"{before}; export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1")
    assert (done.returncode, done.stdout) == (1, b"")
    assert re.fullmatch(rb"Error: .*" + cause + rb".*\n", done.stderr), done.stderr


@pytest.mark.parametrize("megabytes", [50, 100, 130])
def test_too_little_address_space_for_numpy_is_said_before_openblas_ends_the_process(
    megabytes: int, tmp_path: Path
) -> None:
    before = f"ulimit -v {megabytes}000; export OPENBLAS_NUM_THREADS=2"
    done = bitrl(tmp_path, f"{RUN} --quiet", before=before)
    assert (done.returncode, done.stdout) == (1, b"")
    assert re.fullmatch(rb"Error: out of memory: .*ulimit -v.*\n", done.stderr), done.stderr
    assert bitrl(tmp_path, "list", before=before).returncode == 0  # which needs no NumPy


def test_a_user_without_a_home_directory_is_told_where_to_keep_models(monkeypatch) -> None:
    from bitrl.core.errors import UsageError
    from bitrl.core.files import cache_home

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.setenv("XDG_CACHE_HOME", "/kept/here")
    assert cache_home() == Path("/kept/here")
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(UsageError, match="set HOME or XDG_CACHE_HOME"):
        cache_home()


def test_progress_that_nobody_can_read_any_more_stops_no_run(tmp_path, elsewhere) -> None:
    """A log on a full disk, and a reader that went away."""
    done = bitrl(tmp_path, RUN, after="2>/dev/full")
    assert done.returncode == 0
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == elsewhere


def test_standard_streams_that_are_closed_get_no_file_of_the_runs(tmp_path, elsewhere) -> None:
    """The first file that is opened would get the number of stderr, and the warnings of others."""
    done = bitrl(tmp_path, f"{RUN} --json", after="<&- 2>&-")
    assert done.returncode == 0
    assert json.loads(done.stdout)["steps"] == 64
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == elsewhere


def test_a_reader_that_goes_away_ends_the_program_in_silence(tmp_path) -> None:
    done = bitrl(tmp_path, "list --json", after="| head -c 1; exit ${PIPESTATUS[0]}")
    assert done.stderr == b""
    assert done.returncode in (0, 1, 128 + signal.SIGPIPE)


def test_machines_without_proc_are_examined_all_the_same(monkeypatch) -> None:
    from bitrl.cli import doctor

    real = Path.read_text

    def read_text(self: Path, *args: str, **named: str) -> str:
        if str(self).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", str(self))
        return real(self, *args, **named)

    monkeypatch.setattr(Path, "read_text", read_text)
    assert all(finding.ok for finding in doctor.examine(doctor._engine))
