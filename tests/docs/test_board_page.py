"""docs/board.md, gone through line by line: in a minimal installation here, and on an emulated board where `make board`
has made one. What neither has (apt, systemd as the first process) is done here as it would be done there.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from emulated_board import EMULATOR, Board, board
from served import Served, running

from bitrl.cli import main
from bitrl.core.acting import agents

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "board.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|ini)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
UNIT = next(code for language, code in BLOCKS if language == "ini")
MOVED = ("/opt/bitrl", "/etc/bitrl", "/var/lib/bitrl", "/etc/systemd/system")
SHORTER = {"50_000": "32", "60_000": "48", "8h": "0.2s", "10s": "0.2s", "300MB": "2GB"}
QUICK = ["-o", "backbone.layers=1", "-o", "run.num_envs=2", "-o", "run.eval_episodes=0", "-o", "algo.rollout_steps=8"]
LEARNED = 48
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORTED = {"attrs": "attr"}
"""Where the name of a distribution is not that of its module."""

WITHOUT = """#!{python}
import sys
from importlib import metadata
MISSING = {missing!r}
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING.values():
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
class Nowhere(metadata.DistributionFinder):
    def find_spec(self, *arguments):
        return None
    def find_distributions(self, context=metadata.DistributionFinder.Context()):
        if context.name in MISSING:
            raise metadata.PackageNotFoundError(context.name)
        return iter(())
sys.meta_path[:0] = [Finder(), Nowhere()]
from bitrl.cli import main
main()
"""
BITRL = "#!{python}\nfrom bitrl.cli import main\nmain()\n"
EMULATED = '#!/bin/sh\nexec {emulator} -L {root} {program} "$@"\n'


class Here:
    """A board for which this machine stands in: bitrl as it is, without what was not installed by the page."""

    def __init__(self, folder: Path):
        self.prefix = folder / "opt" / "bitrl"
        self.installed: set[str] = set()

    def program(self, name: str, text: str) -> None:
        path = self.prefix / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def make_environment(self) -> None:
        (self.prefix / "bin").mkdir(parents=True)

    def install(self, *what: str) -> None:
        needed = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["serve"]]
        names = {re.split("[>=]", line)[0] for line in needed}
        asked = {name for name in what if name != "--no-deps" and not name.endswith(".whl")}
        assert asked <= names
        self.installed |= asked
        missing = {name: IMPORTED.get(name, name.replace("-", "_")) for name in names - self.installed}
        self.program("bitrl", WITHOUT.format(python=sys.executable, missing=missing))

    def make_runnable(self, program: Path) -> None:
        program.unlink()


class Emulated(Here):
    """The board of tests/helpers/emulated_board.py."""

    def __init__(self, folder: Path, board: Board):
        super().__init__(folder)
        self.board = board

    def make_environment(self) -> None:
        subprocess.run([self.board.python, "-m", "venv", "--without-pip", self.prefix], check=True)

    def install(self, *what: str) -> None:
        [site] = self.prefix.glob("lib/python*/site-packages")
        self.board.install(site, *what)
        self.program("bitrl", BITRL.format(python=self.prefix / "bin" / "python"))

    def make_runnable(self, program: Path) -> None:
        beside = program.rename(program.with_suffix(".aarch64"))
        emulator = shutil.which(EMULATOR)
        program.write_text(EMULATED.format(emulator=emulator, root=self.board.root, program=beside))
        program.chmod(0o755)


class Walk:
    """The page's commands, one by one: until `scp` on the computer, from then on the board."""

    def __init__(self, folder: Path, place: Here):
        self.folder, self.place = folder, place
        self.computer, self.board = folder / "computer", folder / "board"
        self.cwd = self.computer
        self.serving = contextlib.ExitStack()
        self.served: Served | None = None
        self.printed: list[tuple[str, str]] = []
        for each in (self.computer, self.board, *(folder / name[1:] for name in MOVED[1:])):
            each.mkdir(parents=True)
        (folder / "bin").mkdir()
        sudo = folder / "bin" / "sudo"
        sudo.write_text('#!/bin/sh\nexec "$@"\n')
        sudo.chmod(0o755)
        path = os.pathsep.join(map(str, (place.prefix / "bin", sudo.parent, os.environ["PATH"])))
        self.environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}

    def as_here(self, text: str) -> str:
        """The same for this folder, a free port and less patience."""
        for name in MOVED:
            text = text.replace(name, f"{self.folder}{name}")
        for long, short in SHORTER.items():
            text = re.sub(rf"\b{long}\b", short, text)
        text = text.replace("--port 8000", "--port 0")
        return text if self.served is None else text.replace(":8000", f":{self.served.port}")

    def line(self, line: str) -> None:
        words = shlex.split(line, comments=True)
        if words[:1] == ["sudo"]:
            words = words[1:]
        match words:
            case ["make", "arm"] if isinstance(self.place, Emulated):
                done = subprocess.run(["make", "arm"], cwd=ROOT, capture_output=True, text=True)
                assert done.returncode == 0, done.stderr
                for folder in ("dist", "build"):
                    (self.computer / folder).symlink_to(ROOT / folder)
            case ["make", "arm"]:
                pass
            case ["scp", *files, "board:"]:
                self.copy(files)
            case ["apt", "install", *packages]:
                have = self.place.board.packages() if isinstance(self.place, Emulated) else set()
                assert set(packages) == {"python3-venv", "curl"}
                assert not have or "python3.11-venv" in have
            case ["python3", "-m", "venv", _]:
                self.place.make_environment()
            case [pip, "install", *what] if pip.endswith("/bin/pip"):
                self.place.install(*(str(next(self.cwd.glob(name), name)) if "*" in name else name for name in what))
            case ["bitrl", "serve", *_]:
                self.serve([*words, "--port", "0"])
            case ["systemctl", "daemon-reload"] | ["systemd-analyze", "verify", _] if not shutil.which(
                "systemd-analyze"
            ):
                pass
            case ["systemctl", *arguments]:
                self.systemctl(*arguments)
            case _ if "./bitrl-act" in line and not (self.cwd / "bitrl-act").exists():
                pass  # tests/csrc/test_agent_programs.py
            case _:
                self.run(line)

    def copy(self, files: list[str]) -> None:
        for path in (path for name in files for path in self.computer.glob(name)):
            shutil.copy(path, self.board)
        if (self.board / "bitrl-act").exists():
            self.place.make_runnable(self.board / "bitrl-act")
        self.cwd = self.board

    def run(self, line: str) -> None:
        if self.cwd == self.computer:
            line = line.replace("bitrl ", f"{sys.executable} -m bitrl ", 1)
            line = f"{line.partition('#')[0]} {shlex.join(QUICK)}" if " run " in line else line
        command = ["bash", "-o", "pipefail", "-c", line]
        done = subprocess.run(command, cwd=self.cwd, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stdout[-500:], done.stderr[-2000:])
        self.printed.append((line, done.stdout))

    def serve(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self.serving.close()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**self.environment, **(environment or {})}.items():
                patch.setenv(name, value)
            program = shutil.which(command[0], path=self.environment["PATH"])
            patch.chdir(self.board)
            self.served = self.serving.enter_context(running([str(program), *command[1:]], self.folder / "log"))

    def systemctl(self, command: str, *arguments: str) -> None:
        """As systemd, of the unit of the page."""
        unit = configparser.ConfigParser(interpolation=None, strict=False)
        unit.optionxform = str
        unit.read_string(self.as_here(UNIT))
        service = unit["Service"]
        match command, *arguments:
            case ["daemon-reload"]:
                pass
            case ["enable", "--now", "bitrl"]:
                name, _, source = service["LoadCredential"].partition(":")
                credentials = self.folder / "credentials"
                credentials.mkdir()
                shutil.copy(source, credentials / name)
                command_line = service["ExecStart"].replace("${CREDENTIALS_DIRECTORY}", str(credentials))
                self.serve(shlex.split(command_line), {"HOME": "/nonexistent"})
            case ["reload", "bitrl"]:
                reload = service["ExecReload"].replace("$MAINPID", str(self.served.process.pid))
                subprocess.run(shlex.split(reload), check=True)
                token = (self.folder / "etc" / "bitrl" / "token").read_text().strip()
                for _ in range(600):
                    if 'bitrl_agent_swaps_total{result="accepted"} 1' in self.metrics(token):
                        return
                    time.sleep(0.1)
                raise AssertionError("the agent was not reloaded")
            case other:
                raise AssertionError(f"no such command here: systemctl {other}")

    def metrics(self, token: str) -> str:
        return self.served.ask_whole("GET", "/metrics", headers={"Authorization": f"Bearer {token}"})[2].decode()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("where", ["here", "board"])
def test_every_command_as_it_stands_there(where: str, tmp_path: Path) -> None:
    found = board() if where == "board" else None
    if where == "board" and found is None:
        pytest.skip(f"needs an emulated board: make board ({EMULATOR}, apt)")
    walk = Walk(tmp_path, Here(tmp_path) if found is None else Emulated(tmp_path, found))
    with walk.serving:
        for language, code in BLOCKS:
            if language == "ini":
                (tmp_path / "etc" / "systemd" / "system" / "bitrl.service").write_text(walk.as_here(code))
            else:
                for line in code.splitlines():
                    walk.line(walk.as_here(line))
        assert walk.served.stop() == 0
    assert (tmp_path / "log").read_text() == f"bitrl serve: reloaded {tmp_path}/var/lib/bitrl/agent.safetensors\n"
    told = {line.partition("#")[0].strip(): out for line, out in walk.printed}
    acts = [out for line, out in told.items() if "act agent." in line]
    assert set(acts) <= {"0\n", "1\n"}
    assert (len(set(acts)), len(acts)) == (1, 1 if found is None else 2)
    assert [json.loads(out)["action"] in (0, 1) for line, out in told.items() if line.startswith("curl")] == [True] * 2
    assert all(out == "" for line, out in told.items() if line.startswith("systemd-analyze"))
    assert json.loads((walk.board / "there" / "summary.json").read_text())["steps"] == LEARNED
    assert agents.read(walk.board / "agent.safetensors").meta["step"] == LEARNED
    assert json.loads((walk.board / "soak.json").read_text())["results"]["interrupted"] is False


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bitrl.core.runs.export import export
    from bitrl.core.runs.train import run

    folder = tmp_path_factory.mktemp("agent")
    options = {"run.eval_episodes": 0, "run.num_envs": 2, "algo.rollout_steps": 16, "backbone.layers": 1}
    run("CartPole-v1", steps=32, out=folder / "there", options=options)
    export(folder / "there", folder / "agent.safetensors")
    export(folder / "there", folder / "agent.gguf", c=True)
    whole = (folder / "agent.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "token").touch(0o600)
    return folder


RESUME = ["run", "--resume", "agent.safetensors", "--steps"]
SAID = {
    "is not installed` … `pip install": ["serve", "agent.safetensors"],
    "no such file": ["act", "none.safetensors"],
    "not an agent, or damaged": ["serve", "cut.safetensors"],
    "written by another version of bitrl": ["act", "agent.safetensors"],
    "an agent for programs without Python": ["serve", "agent.gguf"],
    "no such file or directory: name a GGUF file": ["act", "agent.safetensors", "-o", "backbone.model=model.gguf"],
    "the agent's backbone is not the one it was trained with": [
        "act", "agent.safetensors", "-o", "backbone.layers=2"
    ],
    "which takes a token": ["serve", "agent.safetensors", "--host", "0.0.0.0", "--port", "0"],
    "expected a token of at least 16": ["serve", "agent.safetensors", "--token-file", "token"],
    "another program listens there": ["serve", "agent.safetensors", "--port", "PORT"],
    "has already learned for": [*RESUME, "16", "--out", "new"],
    "already holds a run": [*RESUME, "64", "--out", "there"],
    "needs torch": ["run", "--steps", "16", "-o", "backbone.lora_rank=2", "--out", "new"],
    "--memory-limit": [*RESUME, "64", "--memory-limit", "30MB", "--out", "new"],
}  # fmt: skip
"""What says it. The rest is said by pip and by systemd."""
MISSING = {"is not installed` … `pip install": "uvicorn", "needs torch": "torch"}


def test_the_table_has_what_is_said() -> None:
    _, _, table = PAGE.partition("| it says |")
    rows = [row.removeprefix("`").removesuffix("`") for row in re.findall(r"^\| (`.*?) \| ", table, re.MULTILINE)]
    assert [row for row in rows if row in SAID] == list(SAID)
    others = [row for row in rows if row not in SAID]
    assert [re.sub("` .*", "", row) for row in others] == [
        "externally-managed-environment",
        "is not a supported wheel on this platform",
        "Failed with result 'oom-kill'",
        "status=2",
    ]


@pytest.mark.parametrize("words", SAID)
def test_each_error_is_said_in_these_words(
    words: str, agent: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(agent)
    monkeypatch.delenv("BITRL_DEBUG", raising=False)
    if words in MISSING:
        monkeypatch.setitem(sys.modules, MISSING[words], None)
    if words == "written by another version of bitrl":
        monkeypatch.setattr(agents, "FORMAT", agents.FORMAT + 1)
    before = sorted(agent.rglob("*"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [word.replace("PORT", str(taken.getsockname()[1])) for word in SAID[words]]
        with pytest.raises(SystemExit) as stopped:
            main(command)
    said = capfd.readouterr()
    assert (stopped.value.code, said.err.count("\n")) in ((1, 1), (2, 1)), said.err
    assert all(part in said.err for part in words.split("` … `")), said.err
    assert sorted(agent.rglob("*")) == before
    if "serve" in command and words not in ("is not installed` … `pip install", "another program listens there"):
        assert stopped.value.code == int(re.findall(r"^RestartPreventExitStatus=(.*)$", UNIT, re.MULTILINE)[0])
    if words == "another program listens there":
        assert stopped.value.code == 1  # systemd tries again


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_service_may_do_little(tmp_path: Path) -> None:
    """By systemd's own measure of exposure: from 0 to 10, here in tenths."""
    (tmp_path / "bitrl.service").write_text(UNIT)
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", "bitrl.service"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
