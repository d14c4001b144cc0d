"""What `bitrl profile` measures, with a clock that is set: what is late, what is missed, what energy is whose."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from bitrl.core.energy import EnergyMeter
from bitrl.plugins.backbones.benchmark import profiling as measured
from bitrl.plugins.backbones.benchmark.profiling import WARM_UP, Machine, Plan, Profiling


class Scripted:
    """A clock, and something that acts by it: each act takes the next of `acts` seconds, then again; a step of the
    environment takes `step`, and an episode ten of them.
    """

    facts: ClassVar = {"env": "Clock-v0"}

    def __init__(self, acts: list[float], step: float | None = None):
        self.now, self.acts, self.step, self.taken, self.working = 0.0, acts, step, 0, 0.0
        self.episodes: int | None = None if step is None else 0

    def act(self) -> dict[str, float]:
        warming = self.taken < WARM_UP
        seconds = self.acts[0] if warming else self.acts[(self.taken - WARM_UP) % len(self.acts)]
        self.taken += 1
        self.now += seconds
        self.working += seconds
        return {"encode": 0.75 * seconds, "heads": 0.25 * seconds}

    def advance(self) -> None:
        if self.step is not None and self.episodes is not None:
            self.now += self.step
            self.episodes = self.taken // 10

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def close(self) -> None:
        """Nothing."""


def profile(
    scripted: Scripted, tmp_path: Path, *meters: EnergyMeter, stopped: Any = lambda: False, **plan: Any
) -> dict:
    machine = Machine(clock=lambda: scripted.now, sleep=scripted.sleep, root=tmp_path, meters=meters)
    profiling = Profiling(scripted, Plan(**plan), machine)
    profiling.run(stopped)
    return profiling.report()


def test_latencies_are_those_of_the_acts_without_the_environment(tmp_path):
    found = profile(Scripted([0.002, 0.002, 0.010, 0.002], step=0.004), tmp_path, seconds=7.995)
    assert found["acts"] == 1000
    assert found["seconds"] == pytest.approx(8.0)
    assert found["steps_per_second"] == pytest.approx(125)
    act = found["latency_ms"]["act"]
    assert (act["p50"], act["p90"], act["max"], act["mean"]) == (
        pytest.approx(2, rel=0.006), pytest.approx(10, rel=0.006), pytest.approx(10), pytest.approx(4),
    )  # fmt: skip
    assert found["latency_ms"]["encode"]["mean"] == pytest.approx(3)
    assert found["latency_ms"]["heads"]["max"] == pytest.approx(2.5)
    assert found["latency_ms"]["environment"]["mean"] == pytest.approx(4)
    assert found["episodes"] == 100
    assert (found["deadline"], found["energy"], found["energy_estimate"]) == (None, [], None)


def test_one_after_another_an_act_is_late_that_takes_longer_than_its_deadline(tmp_path):
    found = profile(Scripted([0.002, 0.010]), tmp_path, seconds=1.2, deadline=0.009)["deadline"]
    assert (found["due"], found["missed"], found["skipped"]) == (200, 100, 0)
    assert found["worst_ms"] == pytest.approx(10)


def test_at_a_rate_an_act_is_late_that_has_waited_for_the_one_before(tmp_path):
    """Due at 0, 100, 200, 300 ms, …: of 90, 90, 90 and 330 ms each the third of four follows at once what it should
    have waited for: the last, due at 300, ends at 630; those of 400, 500 and 600 are gone.
    """
    found = profile(Scripted([0.09, 0.09, 0.09, 0.33]), tmp_path, seconds=6.9, rate=10.0)
    at = found["deadline"]
    assert at["deadline_ms"] == pytest.approx(100)
    assert found["acts"] == 40
    assert (at["due"], at["skipped"]) == (70, 30)
    assert at["missed"] == 30 + 10  # and the one that took so long
    assert at["worst_ms"] == pytest.approx(330)


def test_what_begins_late_is_late_although_it_was_quick(tmp_path):
    """Of 150 and 40 ms at 10 Hz with 120 ms to be done: the second is due at 100, begins at 150 and ends at 190."""
    found = profile(Scripted([0.15, 0.04]), tmp_path, seconds=1.0, rate=10.0, deadline=0.08)["deadline"]
    assert found["worst_ms"] == pytest.approx(150)
    # 150 (due 0), then the next moment that is not gone by is 200.
    assert found["skipped"] == pytest.approx(found["missed"] / 2, abs=1)


def test_waiting_for_the_next_act_ends_with_the_time_or_when_it_is_stopped(tmp_path):
    found = profile(Scripted([0.01]), tmp_path, seconds=3.0, rate=0.001)
    assert (found["acts"], found["deadline"]["missed"], found["interrupted"]) == (1, 0, False)
    assert found["seconds"] == pytest.approx(3)
    scripted = Scripted([0.01])
    found = profile(scripted, tmp_path, seconds=30.0, rate=0.1, stopped=lambda: scripted.now > 12)
    assert (found["acts"], found["interrupted"]) == (2, True)
    assert found["seconds"] == pytest.approx(12, abs=1)


def test_the_environments_time_is_nobodys_delay(tmp_path):
    found = profile(Scripted([0.01], step=0.5), tmp_path, seconds=6.0, rate=50.0)["deadline"]
    assert (found["missed"], found["skipped"]) == (0, 0)


def test_energy_is_what_is_drawn_above_idle(tmp_path):
    """3 W always, and 5 W more while it works, of a counter that starts anew every 7 J."""
    scripted = Scripted([0.004], step=0.006)
    meter = EnergyMeter(name="supply", joules=lambda: (3 * scripted.now + 5 * scripted.working) % 7, wraps_at=7.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bitrl.core.energy.time.monotonic", lambda: scripted.now)
        patch.setattr(measured, "Metered", lambda each: measured_by(each, scripted))
        found = profile(scripted, tmp_path, meter, seconds=20.0, watts=2.0)
    [row] = found["energy"]
    assert row["idle_watts"] == pytest.approx(3)
    assert row["watts"] == pytest.approx(5)
    assert row["joules_per_step"] == pytest.approx(0.02)
    assert row["joules_per_episode"] == pytest.approx(0.2)
    assert found["energy_estimate"] == {
        "watts": 2.0, "joules_per_step": pytest.approx(0.008), "joules_per_episode": pytest.approx(0.08),
    }  # fmt: skip


def measured_by(meter: EnergyMeter, scripted: Scripted) -> Any:
    from bitrl.core.energy import Metered

    return Metered(meter, lambda: scripted.now)


def test_power_is_sampled_in_a_thread_and_a_meter_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(measured, "SAMPLE_SECONDS", 0.01)

    class Waiting(Scripted):
        def act(self) -> dict[str, float]:
            import time

            time.sleep(0.005)
            return {"encode": 0.005}

    def refuse() -> float:
        raise PermissionError(13, "Permission denied")

    profiling = Profiling(
        Waiting([0.0]),
        Plan(seconds=0.2),
        Machine(
            root=tmp_path,
            meters=[EnergyMeter(name="ina226", watts=lambda: 4.0), EnergyMeter(name="rapl", joules=refuse)],
        ),
    )
    profiling.run()
    steady, refused = profiling.report()["energy"]
    assert steady["watts"] == pytest.approx(4)  # whatever the moments at which it was read
    assert steady["joules_per_step"] == pytest.approx(0, abs=1e-9)
    assert steady["joules_per_episode"] is None
    assert refused["meter"] == "rapl"
    assert refused["failure"].startswith("may not be read by this user")


def test_sensors_are_looked_at_over_time(tmp_path):
    zone = tmp_path / "sys/class/thermal/thermal_zone0/temp"
    firmware = tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled"
    for path in (zone, firmware):
        path.parent.mkdir(parents=True)
    scripted = Scripted([0.5])
    original = scripted.act

    def act() -> dict[str, float]:
        zone.write_text(f"{40_000 + round(1000 * scripted.now)}\n")
        firmware.write_text("4" if scripted.now > 20 else "0")
        return original()

    scripted.act = act
    found = profile(scripted, tmp_path, seconds=20.0)
    temperature = found["sensors"]["temperature_c"]
    assert temperature["last"] > temperature["first"] + 10
    assert temperature["most"] == temperature["last"]
    assert set(found["sensors"]["slowed_down"]) == {"throttled"}
    assert found["sensors"]["clock_mhz"] is None
    assert found["drift"]["p99_last_ms"] == pytest.approx(500, rel=0.006)
    assert len(found["over_time"]) > 8


def test_what_was_measured_until_it_was_stopped_is_reported(tmp_path):
    scripted = Scripted([0.01])
    found = profile(scripted, tmp_path, seconds=3600.0, stopped=lambda: scripted.now > 5)
    assert found["interrupted"]
    assert found["seconds"] == pytest.approx(5, abs=0.3)
    scripted = Scripted([0.01])
    assert profile(scripted, tmp_path, seconds=10.0, stopped=lambda: True)["acts"] == 0
