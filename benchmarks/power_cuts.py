"""Cuts the power of an agent that learns on, at random moments, and asks that it ends as if nothing had happened.

    python benchmarks/power_cuts.py --cuts 500 --work /tmp/power-cuts

An agent learns on for some updates in a run of its own, and is exported over the file that it came from; then again
from there. Each process is cut off: by SIGKILL, after which the system still writes what the process wrote, or by a
power cut, after which a file that was not synced may be empty, torn or full of zeros, and a name that was not synced
may be gone (lossy_disk.py). What is left is gone on with, in another process: `bitrl run --resume RUN`, or from the
agent where there is no run yet. At every moment the agent's file must be one of the two whole ones, and in the end the
agent, the metrics and the checkpoints must be the bytes of a twin that nobody disturbed.

With --ext4, as root, the disk is a real file system in a file (a loop device): of a process that was stopped, the file
is copied as it is at that moment, and the copy is mounted in its place.

With the same --work it goes on where it was stopped. The figures go to results/power-cuts.json (power-cuts-ext4.json).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lossy_disk import LossyDisk
from record import RESULTS, save

import bitrl
from bitrl.core.files import write_atomically

UPDATES, ROLLOUT, ENVS = 8, 32, 2
OPTIONS = {
    "run.num_envs": ENVS,
    "run.eval_episodes": 1,
    "run.eval_every": 4 * ROLLOUT * ENVS,
    "run.eval_every_episodes": 1,
    "run.checkpoint_every": 1,
    "algo.rollout_steps": ROLLOUT * ENVS,
    "algo.epochs": 1,
    "backbone.hidden": [8],
}
SAID = tempfile.TemporaryFile("w+")  # noqa: SIM115
"""What the processes write to stderr."""

CUT = 77
"""The exit code of a process whose power was cut."""

MOST_CALLS = 30
"""A power cut comes before one of so many syncs and renames, or within half the time that the twin took."""


def learn(place: Path, steps: int) -> None:
    """Learn on from the agent in `place` until `steps`, or go on with the run there; then export it over the agent."""
    run, agent = place / "run", place / "agent.safetensors"
    if (run / "config.toml").is_file():
        bitrl.resume(run)
    else:
        bitrl.learn_on(agent, out=run, steps=steps)
    bitrl.export(run, agent, with_optimizer=True)


def first_agent(path: Path) -> None:
    """Write the agent that all begins with."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        bitrl.run("CartPole-v1", backbone="mlp", serializer="vector", steps=ROLLOUT * ENVS, out=run, options=OPTIONS)
        bitrl.export(run, path, with_optimizer=True)


def import_all(agent: Path) -> None:
    """Do all once that is done below, so that the processes need not import it."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(agent, folder)
        step = bitrl.load_agent(agent).facts["step"]
        for _ in range(2):  # the second time it goes on
            learn(Path(folder), step + ROLLOUT * ENVS)
            (Path(folder) / "run" / "summary.json").unlink()
        bitrl.resume(Path(folder) / "run", steps=step + 2 * ROLLOUT * ENVS)


def forked(work: Callable[[], None]) -> int:
    """Start `work()` in a copy of this process, which has imported all that it needs; its process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        SAID.truncate(0)
        os.dup2(SAID.fileno(), 2)
        work()
        code = 0
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """The exit code of a process, or less than zero for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def cut_off(place: Path, steps: int, chance: random.Random, most: float) -> str:
    """Let the agent in `place` learn, cut off at a random moment within `most` seconds: "killed", "cut", or "done" if
    it came before.
    """
    if chance.random() < 0.3:
        pid = forked(lambda: learn(place, steps))
        time.sleep(chance.uniform(0, most))
        os.kill(pid, signal.SIGKILL)
        code = ended(pid)
        return "killed" if code == -signal.SIGKILL else expect_done(code)
    left = place.with_name("left")

    def work() -> None:
        def power_off(*_: Any) -> None:
            lost = disk.cut(left, chance)
            left.with_name("lost.json").write_text(json.dumps(lost))
            os._exit(CUT)

        call = chance.randrange(MOST_CALLS) if chance.random() < 0.7 else None
        disk = LossyDisk(place, lambda calls: power_off() if calls == call else None)
        disk.install()
        if call is None:
            signal.signal(signal.SIGALRM, power_off)
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.01, most))
        learn(place, steps)
        signal.setitimer(signal.ITIMER_REAL, 0)

    code = ended(forked(work))
    if code != CUT:
        return expect_done(code)
    shutil.rmtree(place)
    left.rename(place)
    return "cut"


class Ext4:
    """A real file system in `folder`, mounted at `folder`/disk."""

    def __init__(self, folder: Path):
        self.image, self.mounted = folder / "disk.img", folder / "disk"
        self.mounted.mkdir(exist_ok=True)
        with open(self.image, "wb") as file:
            file.truncate(32 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", self.image], check=True)
        self.mount()

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self.image, self.mounted], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", self.mounted], check=True)

    def cut_off(self, place: Path, steps: int, chance: random.Random, most: float) -> str:
        """As `cut_off` below, by what the file system has given to its disk when the process is stopped."""
        pid = forked(lambda: learn(place, steps))
        time.sleep(chance.uniform(0, most))
        os.kill(pid, signal.SIGSTOP)
        left = self.image.with_name("left.img")
        shutil.copyfile(self.image, left)
        os.kill(pid, signal.SIGKILL)
        if (code := ended(pid)) != -signal.SIGKILL:
            return expect_done(code)
        self.unmount()
        left.replace(self.image)
        self.mount()
        return "cut"


def expect_done(code: int) -> str:
    """Refuse a process that ended badly; "done" for any other."""
    if code != 0:
        SAID.seek(0)
        raise SystemExit(f"learning failed with exit code {code}: {SAID.read()[-2000:]}")
    return "done"


def contents(place: Path) -> dict[str, bytes]:
    """The bytes of all that must be the same: all but what a clock said, and the words of the directory's name."""
    run = place / "run"
    same = [run / "metrics.jsonl", run / "evaluations.jsonl", run / "best.safetensors", *run.glob("checkpoints/*")]
    found = {path.relative_to(place).as_posix(): path.read_bytes() for path in same}
    found["eval"] = json.dumps(json.loads((run / "summary.json").read_text())["eval"]).encode()
    return found | {"agent": (place / "agent.safetensors").read_bytes()}


def round_of(
    folder: Path, number: int, most_cuts: int, chance: random.Random, tally: dict[str, int], disk: Ext4 | None
) -> None:
    """Let the agent in `folder` learn on once more, cut off `most_cuts` times at most, beside its twin."""
    steps = ROLLOUT * ENVS * (1 + UPDATES * (number + 1))
    agent, twin = folder / "agent.safetensors", folder / "twin"
    place = (folder if disk is None else disk.mounted) / "place"
    for each in (place, twin, folder / "left"):
        shutil.rmtree(each, ignore_errors=True)
    for each in (place, twin):
        each.mkdir()
        shutil.copy(agent, each)
    if disk is not None:
        os.sync()
    began = time.monotonic()
    expect_done(ended(forked(lambda: learn(twin, steps))))
    half = (time.monotonic() - began) / 2  # a process that is cut off later has often done it all
    whole = {agent.read_bytes(), (twin / "agent.safetensors").read_bytes()}
    cuts, how = 0, ""
    while how != "done":
        if cuts == most_cuts:
            how = expect_done(ended(forked(lambda: learn(place, steps))))
        else:
            how = (cut_off if disk is None else disk.cut_off)(place, steps, chance, half)
            chance = random.Random(chance.random())  # the process that was cut off drew from a copy
            if how != "done":
                cuts += 1
                tally[how] += 1
        if how == "cut" and disk is None:
            lost = json.loads((folder / "lost.json").read_text())
            for name, count in lost.items():
                tally[f"cuts_that_lost_{name}"] = tally.get(f"cuts_that_lost_{name}", 0) + (count > 0)
        if (place / "agent.safetensors").read_bytes() not in whole:
            raise SystemExit(f"round {number}: the agent's file is neither of the two")
    found, expected = contents(place), contents(twin)
    if differing := [name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)]:
        raise SystemExit(f"round {number}: other bytes than of the twin: {', '.join(sorted(differing))}")
    write_atomically(agent, found["agent"])


def cut_again_and_again(
    folder: Path, cuts: int, seed: int = 0, tell: Callable[[str], None] = print, disk: Ext4 | None = None
) -> dict[str, int]:
    """Cut off at least `cuts` times, in as many rounds as that takes, going on from `folder`; what happened."""
    progress = folder / "progress.json"
    tally: dict[str, int] = {"rounds": 0, "killed": 0, "cut": 0}
    if progress.is_file():
        tally |= json.loads(progress.read_text())
    else:
        first_agent(folder / "agent.safetensors")
    import_all(folder / "agent.safetensors")
    while (done := tally["killed"] + tally["cut"]) < cuts:
        number = tally["rounds"]
        round_of(folder, number, cuts - done, random.Random(f"{seed} {number}"), tally, disk)
        tally["rounds"] += 1
        write_atomically(progress, json.dumps(tally))
        tell(", ".join(f"{name}: {count}" for name, count in tally.items()))
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=500)
    parser.add_argument("--work", type=Path, help="a directory to work in, and to go on from")
    parser.add_argument("--ext4", action="store_true", help="on a real file system in a file; as root")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bitrl-power-cuts-") as folder:
        work = given.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        disk = Ext4(work) if given.ext4 else None
        try:
            tally = cut_again_and_again(work, given.cuts, disk=disk)
        finally:
            if disk is not None:
                disk.unmount()
    found = {**tally, "updates_a_round": UPDATES, "same_bytes": True}
    save("power-cuts-ext4" if given.ext4 else "power-cuts", found, given.out)


if __name__ == "__main__":
    main()
