"""A run's loggers: what they are told, how they go on after a stop, and that one that fails stops nothing."""

from __future__ import annotations

import csv
import json
import struct
import types
from pathlib import Path

import attrs
import pytest

import bitrl
from bitrl.core.config import resolve
from bitrl.core.events import Event, RolloutStepped, RunFinished, RunStarted, Updated
from bitrl.core.registry import registry
from bitrl.core.runs.listeners import open_loggers
from bitrl.plugins.loggers import CsvOptions
from bitrl.plugins.loggers.csv import Csv
from bitrl.plugins.loggers.tensorboard import TensorBoard

QUICK = {"algo.rollout_steps": 64, "run.num_envs": 4, "run.eval_episodes": 1, "run.checkpoint_every": 2}
ROWS = [{"step": 1, "a": 0.1}, {"step": 2, "a": 0.2, "b": 1}, {"step": 3, "a": 0.3}, {"step": 4, "c": 1e-9, "b": 2}]


def told(logger: bitrl.Logger, rows: list[dict], step: int = 0) -> bitrl.Logger:
    logger.start({}, step)
    for row in rows:
        logger.log(row)
    return logger


def test_csv_holds_the_rows_with_columns_in_the_order_they_came(tmp_path: Path) -> None:
    told(Csv(CsvOptions(), tmp_path), ROWS)
    assert (tmp_path / "metrics.csv").read_text() == "step,a,b,c\n1,0.1,,\n2,0.2,1,\n3,0.3,,\n4,,2,1e-09\n"


@pytest.mark.parametrize(("stopped", "step"), [(stopped, step) for stopped in range(5) for step in range(stopped + 1)])
@pytest.mark.parametrize("half", [0, 1, 3])
def test_csv_of_a_resumed_run_has_the_bytes_of_one_that_was_not_stopped(
    tmp_path: Path, stopped: int, step: int, half: int
) -> None:
    path = tmp_path / "metrics.csv"
    told(Csv(CsvOptions(delimiter="tab"), tmp_path), ROWS)
    whole = path.read_bytes()
    told(Csv(CsvOptions(delimiter="tab"), tmp_path), ROWS[:stopped])  # a new run replaces the old table
    if half and stopped < 4:
        with open(path, "ab") as file:
            file.write(b"1\t0.9"[:half])  # killed while it wrote a row
    told(Csv(CsvOptions(delimiter="tab"), tmp_path), ROWS[step:], step)
    assert path.read_bytes() == whole


def scalars(directory: Path) -> dict[tuple[str, int], float]:
    """What TensorBoard shows: the scalars of all event files, without those that a later file purges."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found: dict[tuple[str, int], float] = {}
    for path in sorted((directory / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
            if event.session_log.status == SessionLog.START:
                found = {key: value for key, value in found.items() if key[1] < event.step}
            for value in event.summary.value:
                assert (value.tag, event.step) not in found
                found[value.tag, event.step] = value.simple_value
    return found


def test_tensorboard_has_each_scalar_once_after_a_stop_without_a_close(tmp_path: Path) -> None:
    told(TensorBoard(None, tmp_path), [{"step": 9, "old": 1.0}])  # of another run, which this one replaces
    told(TensorBoard(None, tmp_path), ROWS[:3])
    logger = told(TensorBoard(None, tmp_path), ROWS[2:], 2)
    logger.finish({"eval": {"mean_return": 3.5, "episodes": 2, "returns": [3, 4]}})
    logger.close()
    expected = {(name, row["step"]): value for row in ROWS for name, value in row.items() if name != "step"}
    expected |= {("evaluation/mean_return", 4): 3.5, ("evaluation/episodes", 4): 2}
    assert scalars(tmp_path) == pytest.approx(expected)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    """Adds a logger to the registry for one test."""

    def add(cls: type, name: str = "mine") -> None:
        module = types.ModuleType("logger_of_a_test")
        module.Target = cls  # type: ignore[attr-defined]
        monkeypatch.setitem(__import__("sys").modules, "logger_of_a_test", module)
        record = bitrl.LoggerRecord(name=name, summary="a test's", target="logger_of_a_test:Target")
        entry = type(registry().entries["logger"][0])("bitrl-mine", record)
        monkeypatch.setitem(registry().entries, "logger", [*registry().entries["logger"], entry])

    return add


@pytest.mark.parametrize("method", ["__init__", "start", "log", "finish", "close"])
@pytest.mark.parametrize("error", [ValueError("no\nluck"), SystemExit(3)])
def test_a_logger_that_raises_is_reported_once_and_the_others_go_on(
    tmp_path: Path, install, capsys: pytest.CaptureFixture[str], method: str, error: BaseException
) -> None:
    def fail(self: object, *arguments: object) -> None:
        raise error

    install(type("Failing", (bitrl.Logger,), {method: fail}))
    config = resolve({"run": {"loggers": ("mine", "csv"), "backbone": "mlp"}})
    with open_loggers(config, tmp_path) as hear:
        hear(RunStarted(tmp_path, {}, 0, 4))
        for row in ROWS:
            hear(Updated(tmp_path, row["step"], row))
        hear(RunFinished(tmp_path, {}))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    where = "start" if method == "__init__" else method
    assert said.startswith(f'warning: plugin bitrl-mine: logger "mine" failed in {where}: {type(error).__name__}')
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 5


def test_loggers_are_closed_when_a_run_fails(tmp_path: Path, install) -> None:
    heard: list[str] = []
    install(type("Closing", (bitrl.Logger,), {"close": lambda self: heard.append("close")}))
    config = resolve({"run": {"loggers": ("mine",), "backbone": "mlp"}})

    def fail() -> None:
        with open_loggers(config, tmp_path) as hear:
            hear(RunStarted(tmp_path, {}, 0, 4))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert heard == ["close"]


def test_a_run_tells_its_loggers_every_row_and_resumes_with_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = {**QUICK, "logger.csv.delimiter": ";"}

    def stop(event: object) -> None:
        if isinstance(event, Updated) and event.step == 192:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bitrl.run(backbone="mlp", steps=256, out=run, options=options, loggers=("csv",), listeners=(stop,))
    bitrl.resume(run)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    table = list(csv.DictReader((run / "metrics.csv").read_text().splitlines(), delimiter=";"))
    assert [{name: float(cell) for name, cell in row.items() if cell} for row in table] == rows
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"run": {"loggers": ("cvs",)}}, 'unknown logger "cvs": did you mean "csv"?'),
        ({"run": {"loggers": "csv"}}, 'run.loggers: expected a list of strings, got "csv"'),
        ({"run": {"loggers": ("csv", "csv")}}, "run.loggers: duplicate name in csv, csv: name each logger once"),
        ({"run": {"loggers": ("csv",)}, "logger.csv": {"delimeter": ";"}}, 'did you mean "logger.csv.delimiter"?'),
        ({"logger": {"csv": {"delimiter": ";"}}}, "logger.csv has options, but the run does not use this logger"),
        ({"logger": {"delimiter": ";"}}, "logger.delimiter is not a section"),
    ],
)
def test_what_is_wrong_about_loggers_is_one_line(values: dict, message: str) -> None:
    with pytest.raises(bitrl.UsageError) as caught:
        resolve(values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_its_package_tensorboard_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(bitrl.UsageError) as caught:
        bitrl.run(backbone="mlp", out=tmp_path / "run", loggers=("tensorboard",))
    assert str(caught.value) == "logger \"tensorboard\" needs tensorboardX: pip install 'bitrl[tensorboard]'"
    assert not (tmp_path / "run").exists()


def test_a_logger_has_options_and_receives_the_runs_other_events(tmp_path: Path, install) -> None:
    heard: list[tuple[str, int]] = []

    class Watch(bitrl.Logger):
        def event(self, event: Event) -> None:
            heard.append((type(event).__name__, self.options.every))

    @bitrl.options
    class WatchOptions:
        every: int = bitrl.option(1, "how often")

    install(Watch)
    [entry] = [each for each in registry().entries["logger"] if each.package == "bitrl-mine"]
    record = attrs.evolve(entry.record, options=WatchOptions)
    registry().entries["logger"].remove(entry)
    registry().entries["logger"].append(type(entry)("bitrl-mine", record))
    options = {**QUICK, "logger.mine.every": 7}
    bitrl.run("CartPole-v1", backbone="mlp", steps=128, out=tmp_path / "run", loggers=("mine",), options=options)
    assert heard == [("CheckpointSaved", 7), ("Evaluating", 7)]


def test_single_steps_are_sent_only_to_those_who_ask(tmp_path: Path, install) -> None:
    steps: dict[str, int] = {"logger": 0, "listener": 0, "other": 0}

    class Watch(bitrl.Logger):
        @bitrl.every_step
        def event(self, event: Event) -> None:
            steps["logger"] += isinstance(event, RolloutStepped)

    @bitrl.every_step
    def listener(event: Event) -> None:
        steps["listener"] += isinstance(event, RolloutStepped)

    def other(event: Event) -> None:
        steps["other"] += isinstance(event, RolloutStepped)

    install(Watch)
    bitrl.run(
        "CartPole-v1", backbone="mlp", steps=128, out=tmp_path / "run", loggers=("mine",), options=QUICK,
        listeners=(listener, other),
    )  # fmt: skip
    assert steps == {"logger": 32, "listener": 32, "other": 0}


def test_neither_listeners_nor_loggers_can_change_what_others_are_told(tmp_path: Path, install) -> None:
    class Spoils(bitrl.Logger):
        def start(self, config: dict, step: int) -> None:
            config["run"]["seed"] = -1

        def log(self, row: dict) -> None:
            row.clear()

        def finish(self, summary: dict) -> None:
            summary["eval"]["mean_return"] = 1e9

    def spoils(event: Event) -> None:
        if isinstance(event, RunStarted):
            event.config["run"]["seed"] = -1  # type: ignore[index]
        elif isinstance(event, Updated):
            event.metrics["step"] = -1  # type: ignore[index]
        elif isinstance(event, RunFinished):
            event.summary["eval"].clear()

    heard: list[Event] = []
    install(Spoils)
    summary = bitrl.run(
        "CartPole-v1", backbone="mlp", steps=128, out=tmp_path / "run", loggers=("mine", "csv"), options=QUICK,
        listeners=(spoils, heard.append),
    )  # fmt: skip
    assert summary["eval"]["mean_return"] < 1e9
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    started, updated, finished = heard[0], heard[1], heard[-1]
    assert isinstance(started, RunStarted)
    assert isinstance(updated, Updated)
    assert isinstance(finished, RunFinished)
    assert (started.config["run"]["seed"], updated.metrics["step"], finished.summary) == (0, 64, summary)
    assert [row["step"] for row in csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines())] == [
        "64",
        "128",
    ]


def test_a_part_of_a_package_that_is_not_there_is_told_with_what_to_install() -> None:
    record = bitrl.LoggerRecord(name="cloud", summary="", target="a:B", needs={"no_such.part": "no-such-part"})
    with pytest.raises(bitrl.UsageError, match=r'logger "cloud" needs no_such\.part: '):
        record.check_needs()
