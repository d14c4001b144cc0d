"""`bitrl profile`: of an agent and of a run, as a table and as JSON, stopped by Ctrl-C, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bitrl as library
from bitrl.cli import profile as command
from bitrl.plugins.backbones.benchmark.profiled import PARTS

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `run` in a Gymnasium environment, and its `agent.safetensors`."""
    folder = tmp_path_factory.mktemp("profiled")
    options = {"run.eval_episodes": 0, "run.num_envs": 4, "algo.rollout_steps": 32, "backbone.layers": 1}
    library.run(
        "CartPole-v1", backbone="bitnet", steps=128, out=folder / "run", options=options | {"backbone.threads": 1}
    )
    library.export(folder / "run", folder / "agent.safetensors")
    return folder


@pytest.fixture(autouse=True)
def one_cold_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "COLD_STARTS", 1)


def test_of_an_agent_as_json_and_the_file_the_same(bitrl: Call, trained: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "p.json", tmp_path / "p.svg"
    agent = trained / "agent.safetensors"
    done = bitrl("profile", agent, "--duration", "0.5s", "--json", "--out", out, "--plot", picture)
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert record == json.loads(out.read_text())
    assert "milliseconds" in picture.read_text()
    assert record["command"].endswith("profile agent.safetensors --duration 0.5s --plot p.svg --json")
    found = record["results"]
    assert (found["env"], found["step"], found["serializer"], found["backbone"]) == (
        "CartPole-v1",
        128,
        "json",
        "bitnet",
    )
    assert (found["cache_mb"], found["threads"], found["episodes"], found["interrupted"]) == (0, 1, None, False)
    latency = found["latency_ms"]
    assert list(latency) == ["act", *PARTS]
    for row in latency.values():
        assert 0 < row["p50"] <= row["p90"] <= row["p99"] <= row["max"]
    # The parts are all of the act.
    assert sum(latency[part]["mean"] for part in PARTS) == pytest.approx(latency["act"]["mean"])
    assert found["acts"] * latency["act"]["mean"] <= 1e3 * found["seconds"]
    assert 10 < found["memory"]["pss_mb"] <= found["memory"]["rss_mb"] <= found["memory"]["peak_rss_mb"]
    assert found["cold_start"]["seconds"] > latency["act"]["p50"] / 1e3
    assert found["cold_start"]["minor_faults"] > 1000


def test_of_a_run_at_a_control_rate(bitrl: Call, trained: Path) -> None:
    done = bitrl("profile", trained / "run", "--duration", "0.5s", "--rate", "50Hz", "--estimate-energy", "3.5W")
    assert done.code == 0, done.err
    assert "CartPole-v1 at step 128: json, bitnet (ternary, " in done.out
    assert " s, at 50 Hz" in done.out
    assert "environment" in done.out
    assert "deadline 20 ms" in done.out
    assert "if an act draws 3.5 W above idle" in done.out
    assert "energy, an estimate" in done.out
    assert (
        "beside the paper's Table III: its own figures, of a Raspberry Pi 4, 2B model, not measured with bitrl"
        in done.out
    )


BESIDE = """
import gymnasium, numpy

class Talking(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (3,), numpy.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        print("hello")
        return numpy.zeros(3, numpy.float32), {}

    def step(self, action):
        self.steps += 1
        return numpy.zeros(3, numpy.float32), 1.0, False, self.steps == 20, {}

gymnasium.register("Talking-v0", entry_point=Talking)
"""


def test_of_a_run_whose_environment_lies_in_the_working_directory_and_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside_the_profile.py").write_text(BESIDE)
    (tmp_path / "json.py").write_text("raise ImportError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    program = "import sys; sys.path.pop(0); from bitrl.cli import main, profile; profile.COLD_STARTS = 1; main()"

    def call(*words: str) -> str:
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    options = ["run.eval_episodes=0", "run.num_envs=2", "algo.rollout_steps=32"]
    quick = ["--steps", "64", *(word for option in options for word in ("-o", option))]
    call(
        "run",
        "--env",
        "beside_the_profile:Talking-v0",
        "--backbone",
        "mlp",
        "--serializer",
        "vector",
        "--out",
        "run",
        *quick,
    )
    found = json.loads(call("profile", "run", "--duration", "200ms", "--json"))["results"]
    assert found["acts"] > 0
    assert found["cold_start"]["seconds"] > 0


def test_without_a_meter_energy_is_not_measured(bitrl: Call, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitrl.core.energy.installed_meters", lambda: ([], ["usb of package lamp: no bus"]))
    done = bitrl("profile", trained / "agent.safetensors", "--duration", "100ms")
    assert "not measured (usb of package lamp: no bus)" in done.out


METERS = """
import bitrl

def steady():
    yield bitrl.EnergyMeter(name="supply", watts=lambda: 4.0)
    raise OSError(5, "no answer from the bus")

@bitrl.hookimpl
def bitrl_energy_meters():
    yield bitrl.EnergyMeterRecord(name="steady", summary="always the same", target=f"{__name__}:steady")
"""


def test_a_plugins_meter_is_read_and_what_fails_of_it_is_said(installed, trained: Path) -> None:
    call = installed(steady_meters=METERS)
    done = call("profile", trained / "agent.safetensors", "--duration", "200ms", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["results"]
    [meter] = found["energy"]
    assert (meter["meter"], meter["joules_per_episode"]) == ("supply", None)
    assert meter["watts"] == pytest.approx(4)
    assert meter["joules_per_step"] == pytest.approx(0, abs=1e-9)
    assert found["broken_meters"] == ["steady of package steady_meters: no answer from the bus"]


def test_what_meters_and_sensors_say_is_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    latency = {"p50": 1.0, "p90": 2.0, "p99": 3.0, "max": 123.4, "mean": 1.5}
    meter = {"idle_watts": 2.5, "watts": 4.25, "joules_per_step": 0.00175, "joules_per_episode": 0.35}
    guess = {"watts": 2.0, "joules_per_step": 0.003, "joules_per_episode": None}
    command.show(
        {
            "env": "Hopper-v5", "step": 4096, "serializer": "values", "backbone": None, "load": 2, "acts": 5000,
            "seconds": 12.5, "steps_per_second": 400.0, "latency_ms": {"act": latency, "heads": latency},
            "memory": {"rss_mb": 50.0, "peak_rss_mb": 60.0, "pss_mb": None, "minor_faults": 1234, "major_faults": 1},
            "cold_start": None, "deadline": None, "broken_meters": ["usb of package lamp: no bus"],
            "energy": [{"meter": "ina226 power1", **meter}, {"meter": "rapl psys", "failure": "no such device"}],
            "energy_estimate": guess,
            "sensors": {
                "temperature_c": {"first": 41.0, "last": 68.4, "least": 40.6, "most": 70.2}, "clock_mhz": None,
                "slowed_down": {"under-voltage": 3}, "heat_throttlings": None,
            },
            "drift": {
                "p50_first_ms": 1.0, "p50_last_ms": 1.0, "p99_first_ms": 2.0, "p99_last_ms": 2.5,
                "rss_mb_per_hour": 1.25, "rss_growth_mb": 0.5,
            },
        }
    )  # fmt: skip
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "Hopper-v5 at step 4,096: values, no model, beside 2 busy processes",
        "5,000 acts in 12.5 s, 400 steps/s",
        "whole act 1.000 2.000 3.000 123 100%",
        "PSS not measured",
        "energy, ina226 power1 0.00175 J a step, 0.35 J an episode: 4.25 W less 2.50 W idle",
        "not measured by rapl psys: no such device; usb of package lamp: no bus",
        "energy, an estimate 0.003 J a step, if an act draws 2 W above idle",
        "temperature 41 °C at first, 68 at last, 41 to 70",
        "clock not measured",
        "throttling under-voltage in 3 looks",
        "p99 2.000 ms in the first quarter, 2.500 ms in the last (+25%); memory +0.5 MB (+1.2 MB an hour)",
        "median latency, ms 1.000 24.8, and 1.2 of tokenising 312",
        "energy of an episode, J 0.35 (ina226 power1) 5.8 24.8",
        "temperature, °C 70 49 68",
    ):
        assert words in said, said


def test_ctrl_c_prints_what_was_measured(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    code = "from bitrl.cli import main; main()"
    words = ["profile", trained / "agent.safetensors", "--duration", "8h", "--json", "--out", out]
    program = f"import bitrl.cli.profile as p; p.COLD_STARTS = 0; p.SAVED_EVERY = 1; {code}"
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, words)], stdout=subprocess.PIPE, text=True)
    while not out.exists():  # written after the first second
        assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    said, _ = process.communicate()
    assert process.returncode == 130
    found = json.loads(said)["results"]
    assert found["interrupted"]
    assert found["acts"] > 0
    assert json.loads(out.read_text())["results"] == found


def test_of_an_agent_that_remembers_writing_is_still_serializing(tmp_path: Path, bitrl: Call) -> None:
    options = {"run.history": 3, "run.eval_episodes": 0, "run.num_envs": 4, "algo.rollout_steps": 32}
    library.run("CartPole-v1", backbone="mlp", serializer="vector", steps=128, out=tmp_path / "run", options=options)
    library.export(tmp_path / "run", tmp_path / "agent.safetensors")
    done = bitrl("profile", tmp_path / "agent.safetensors", "--duration", "100ms", "--json")
    assert done.code == 0, done.err
    latency = json.loads(done.out)["results"]["latency_ms"]
    assert latency["serialize"]["p50"] > 0
    assert latency["tokenize"]["max"] == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere"], 2, "nowhere: no such file"),
        (["{trained}"], 2, "not a run (no config.toml)"),
        (["{trained}/run/config.toml"], 2, "not an agent, or damaged"),
        (["{trained}/run", "-o", "backbone.threads=1"], 2, "a run acts with its own options: leave out -o"),
        (["{trained}/agent.safetensors", "-o", "algo.gamma=1"], 2, "only options of the backbone can be set"),
        (
            ["{trained}/agent.safetensors", "--duration", "soon"],
            2,
            "expected a number with a unit, as in 10s, 25ms or 8h",
        ),
        (["{trained}/agent.safetensors", "--duration", "0s"], 2, "expected a number with a unit"),
        (["{trained}/agent.safetensors", "--duration", "10"], 2, "expected a number with a unit"),
        (["{trained}/agent.safetensors", "--rate", "40"], 2, "expected a number with a unit, as in 40Hz"),
        (["{trained}/agent.safetensors", "--estimate-energy", "-3W"], 2, "expected a number with a unit, as in 3.5W"),
        (["{trained}/agent.safetensors", "--load", "-1"], 2, "--load"),
        (["{trained}/agent.safetensors", "--plot", "p.txt"], 2, "expected a name that ends in .svg, .png, .pdf"),
        (["{trained}/agent.safetensors", "--out", "nowhere/p.json"], 2, "is not a writable directory"),
        (["{trained}/agent.safetensors", "--out", ""], 2, "--out: expected the name of a file, got none"),
    ],
)
def test_what_is_refused_is_one_line(bitrl: Call, trained: Path, words: list[str], code: int, message: str) -> None:
    done = bitrl("profile", *(word.format(trained=trained) for word in words))
    assert done.code == code
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert len(done.err) <= 520
    assert done.out == ""
