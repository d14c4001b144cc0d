"""`bitrl profile`: what an agent takes while it acts, on this machine.

Knows the command and how results are shown; `bitrl.plugins.backbones.benchmark` measures.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import click

from bitrl.cli.backbone_options import backbone_option, backbone_options
from bitrl.cli.measurement import check_out, made_by, out_option, print_table, save
from bitrl.cli.output import claim_stdout, echo, json_option, print_json
from bitrl.core.errors import RunStopped
from bitrl.core.runs.display import announce

COLD_STARTS = 3

BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(100_000))"
"""A process that keeps a CPU busy until the one that started it, whose id it is given, has ended."""

SAVED_EVERY = 60
"""Looks (about one a second) after which a long measurement writes what it has so far."""

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class Given(float):
    """A number that is shown as it was given, with its unit: in the command that makes the results."""

    _text: str

    def __new__(cls, number: float, text: str) -> Given:
        """`text`: what was given."""
        made = super().__new__(cls, number)
        made._text = text
        return made

    def __str__(self) -> str:
        return self._text


class Quantity(click.ParamType):  # type: ignore[type-arg]  # generic in some versions of click
    """A number with a unit, above zero: `10s`, `40Hz`, `3.5W` → seconds, hertz, watts."""

    def __init__(self, name: str, units: dict[str, float], example: str, most: float):
        self.name, self.units, self.example, self.most = name, units, example, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType`."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,9})?)\s*([A-Za-z]+)\s*", value, re.ASCII)
        units = {unit.lower(): scale for unit, scale in self.units.items()}
        number = float(found[1]) * units.get(found[2].lower(), 0.0) if found else 0.0
        if not 0 < number <= self.most:
            self.fail(f"expected a number with a unit, as in {self.example}, got {value!r}", param, ctx)
        return Given(number, value.strip())


DURATION = Quantity("duration", _UNITS, "10s, 25ms or 8h", 3.2e7)
RATE = Quantity("rate", {"Hz": 1.0, "kHz": 1e3}, "40Hz", 1e6)
WATTS = Quantity("power", {"W": 1.0, "mW": 1e-3}, "3.5W", 1e6)


@click.command()
@click.argument("place", metavar="AGENT|RUN", type=click.Path(path_type=Path))
@click.option("--duration", type=DURATION, default="10s", show_default=True, metavar="TIME", help="How long: 10s, 8h.")
@click.option("--rate", type=RATE, metavar="RATE", help="Act at this control rate, as 40Hz, not as fast as it can.")
@click.option(
    "--deadline",
    type=DURATION,
    metavar="TIME",
    help="Count acts that are not done in time, as 25ms.  [default: with --rate the time until the next]",
)
@click.option("--load", type=click.IntRange(0, 1024), default=0, metavar="N", help="Beside N busy processes.")
@click.option(
    "--estimate-energy",
    "watts",
    type=WATTS,
    metavar="POWER",
    help="Also estimate energy, by what an act draws above idle, as 3.5W: an estimate, and marked as one.",
)
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw latency over time.")
@backbone_option
@out_option
@json_option
def profile(
    place: Path,
    duration: float,
    rate: float | None,
    deadline: float | None,
    load: int,
    watts: float | None,
    plot: Path | None,
    assignments: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure what an agent takes while it acts, on this machine.

    AGENT is a file of `bitrl export`, which gets the observations that it holds; RUN is the directory of a run, whose
    newest checkpoint acts in its environment. States come one at a time, actions are greedy.

    Latency is divided among the parts of an act. Memory, page faults, a cold start (a new process to its first action),
    temperature, clock and throttling are measured where the machine says them; energy by the meters that it has, less
    what it draws idle. Quantiles are right to half a per cent. Ctrl-C ends the measurement, and prints what there is.
    """
    from bitrl.cli.plot import check_picture
    from bitrl.core.energy import installed_meters
    from bitrl.core.runs.interrupts import interrupts
    from bitrl.plugins.backbones.benchmark import cold_start
    from bitrl.plugins.backbones.benchmark.profiled import profiled
    from bitrl.plugins.backbones.benchmark.profiling import Machine, Plan, Profiling

    options = backbone_options(assignments)
    check_out(out)
    if plot is not None:
        check_picture(plot, "--plot")
        check_out(plot, "--plot")
    stdout = claim_stdout() if as_json else None
    announce("loading")
    at_work = profiled(place, options)
    try:
        at_work.act()  # what is wrong is said before minutes go into measuring
        with interrupts(lambda signum: None) as interrupted:
            announce("cold starts")
            starts: list[dict[str, Any]] = []
            while len(starts) < COLD_STARTS and not interrupted():
                starts.append(cold_start.measure(place, options))
            meters, broken = installed_meters()
            made = made_by()

            def record() -> dict[str, Any]:
                cold = {name: median(each[name] for each in starts) for name in starts[0]} if starts else None
                found = {**profiling.report(), "load": load, "cold_start": cold, "broken_meters": broken}
                return {**made, "results": found}

            plan = Plan(seconds=duration, rate=rate, deadline=deadline, watts=watts)
            profiling = Profiling(at_work, plan, Machine(meters=meters))
            announce("acting")
            with _busy(load):
                profiling.run(lambda: interrupted() > 0, _now_and_then(lambda: save(record(), out)))
            signum = interrupted()
        found = record()
    finally:
        at_work.close()
    if signum and not found["results"]["acts"]:
        raise RunStopped("stopped before anything was measured", signum)
    save(found, out)
    if plot is not None:
        _draw(plot, found["results"])
    if as_json:
        print_json(found, stdout)
    else:
        show(found["results"])
    if signum:
        raise RunStopped(f"stopped after {found['results']['seconds']:.1f} s of {duration:g} s", signum)


def _now_and_then(call: Callable[[], None]) -> Callable[[], None]:
    """A function that calls `call` every `SAVED_EVERY` times that it is called."""
    times = 0

    def counting() -> None:
        nonlocal times
        times += 1
        if times % SAVED_EVERY == 0:
            call()

    return counting


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Within, so many processes keep CPUs busy."""
    command = [sys.executable, "-c", BUSY, str(os.getpid())]
    processes = [subprocess.Popen(command, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def show(found: dict[str, Any]) -> None:
    """Print what was measured, for people."""
    echo(f"{_who(found)}\n")
    latency: list[tuple[str, ...]] = [("latency, ms", "p50", "p90", "p99", "max", "share")]
    whole = found["latency_ms"]["act"]["mean"]
    for name, row in found["latency_ms"].items():
        share = "" if name == "environment" or not whole else f"{row['mean'] / whole:.0%}"
        numbers = (_short(row[each]) for each in ("p50", "p90", "p99", "max"))
        latency.append(("whole act" if name == "act" else name, *numbers, share))
    print_table(f"{found['acts']:,} acts in {found['seconds']:.1f} s, {_speed(found)}", latency)
    rows = [("measured", "")]
    rows += _memory(found)
    rows += _deadline(found)
    rows += _energy(found)
    rows += _sensors(found["sensors"])
    rows += _drift(found)
    print_table("memory, energy and the machine", rows)
    _beside_the_paper(found)


def _who(found: dict[str, Any]) -> str:
    backbone = found["backbone"] or "no model"
    engine = ""
    if "isa" in found:
        threads = f"{found['threads']} thread{'s' * (found['threads'] != 1)}"
        cache = f"cache of {found['cache_mb']:.0f} MB" if found["cache_mb"] else "cache off"
        engine = f" ({found['format']}, {found['isa']}, {threads}, {cache})"
    load = f", beside {found['load']} busy processes" if found["load"] else ""
    return f"{found['env']} at step {found['step']:,}: {found['serializer']}, {backbone}{engine}{load}"


def _speed(found: dict[str, Any]) -> str:
    deadline = found["deadline"]
    if deadline is not None and deadline["rate_hz"] is not None:
        return f"at {deadline['rate_hz']:g} Hz"
    return f"{found['steps_per_second']:,.0f} steps/s"


def _memory(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    memory, cold = found["memory"], found["cold_start"]
    pss = "not measured" if memory["pss_mb"] is None else f"{memory['pss_mb']:,.1f} MB"
    yield "memory", f"RSS {memory['rss_mb']:,.1f} MB (peak {memory['peak_rss_mb']:,.1f} MB), PSS {pss}"
    yield "page faults", f"{memory['minor_faults']:,} minor, {memory['major_faults']:,} major, while acting"
    if cold is not None:
        yield (
            "cold start",
            f"{1e3 * cold['seconds']:,.0f} ms from a new process to its first action, peak {cold['peak_rss_mb']:,.1f} "
            f"MB, {cold['minor_faults']:,.0f} minor and {cold['major_faults']:,.0f} major page faults",
        )


def _deadline(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    deadline = found["deadline"]
    if deadline is None:
        return
    share = deadline["missed"] / deadline["due"] if deadline["due"] else 0.0
    skipped = f", {deadline['skipped']:,} of them not even begun in time" if deadline["skipped"] else ""
    yield (
        f"deadline {deadline['deadline_ms']:g} ms",
        f"{deadline['missed']:,} of {deadline['due']:,} missed ({share:.2%}){skipped}; worst "
        f"{_short(deadline['worst_ms'])} ms",
    )


def _energy(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    read = [each for each in found["energy"] if "failure" not in each]
    for each in read:
        yield (
            f"energy, {each['meter']}",
            f"{_joules(each)}: {each['watts']:.2f} W less {each['idle_watts']:.2f} W idle",
        )
    why = [f"{each['meter']}: {each['failure']}" for each in found["energy"] if "failure" in each]
    why += found["broken_meters"]
    if not read:
        yield "energy", f"not measured ({'; '.join(why) or 'this machine has no meter'})"
    elif why:
        yield "energy", f"not measured by {'; '.join(why)}"
    if (guess := found["energy_estimate"]) is not None:
        yield "energy, an estimate", f"{_joules(guess)}, if an act draws {guess['watts']:g} W above idle"


def _joules(each: dict[str, Any]) -> str:
    episode = each["joules_per_episode"]
    return f"{each['joules_per_step']:.4g} J a step" + ("" if episode is None else f", {episode:.4g} J an episode")


def _sensors(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, key, unit in (("temperature", "temperature_c", "°C"), ("clock", "clock_mhz", "MHz")):
        at = found[key]
        if at is None:
            yield name, "not measured"
            continue
        rest = f"{at['last']:,.0f} at last, {at['least']:,.0f} to {at['most']:,.0f}"
        yield name, f"{at['first']:,.0f} {unit} at first, {rest}"
    slowed, heat = found["slowed_down"], found["heat_throttlings"]
    words = [f"{why} in {count} looks" for why, count in (slowed or {}).items()]
    words += [f"slowed down for heat {heat} times"] if heat else []
    yield "throttling", "not measured" if slowed is None and heat is None else ", ".join(words) or "none"


def _drift(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    drift = found["drift"]
    if drift is None:
        yield "drift", "measured for too short a time"
        return
    change = drift["p99_last_ms"] / drift["p99_first_ms"] - 1 if drift["p99_first_ms"] else 0.0
    yield (
        "drift",
        f"p99 {_short(drift['p99_first_ms'])} ms in the first quarter, {_short(drift['p99_last_ms'])} ms in the last "
        f"({change:+.0%}); memory {drift['rss_growth_mb']:+.1f} MB ({drift['rss_mb_per_hour']:+.1f} MB an hour)",
    )


def _beside_the_paper(found: dict[str, Any]) -> None:
    """The paper's figures, which are of another machine and model, beside these."""
    from bitrl.core.studies.paper.edge import BITRL, FP16, WHERE

    hottest, cold = found["sensors"]["temperature_c"], found["cold_start"]
    energy = [
        f"{each['joules_per_episode']:.4g} ({each['meter']})"
        for each in found["energy"]
        if each.get("joules_per_episode") is not None
    ]
    measured = (
        ("median latency, ms", _short(found["latency_ms"]["act"]["p50"]), "latency_ms"),
        ("steps/s", _speed(found).removesuffix(" steps/s"), "steps_per_second"),
        ("peak memory, MB", f"{(cold or found['memory'])['peak_rss_mb']:,.1f}", "peak_mb"),
        ("energy of an episode, J", energy[0] if energy else "not measured", "joules_per_episode"),
        ("temperature, °C", "not measured" if hottest is None else f"{hottest['most']:.0f}", "temperature_c"),
    )
    rows: list[tuple[str, ...]] = [("", "measured here", "paper's BitRL", "paper's FP16")]
    for name, here, key in measured:
        rows.append((name, here, *(f"{getattr(each, key):g}" for each in (BITRL, FP16))))
    rows[1] = (*rows[1][:2], f"{BITRL.latency_ms:g}, and {BITRL.tokenising_ms:g} of tokenising", rows[1][3])
    print_table(f"beside the paper's Table III: its own figures, of a {WHERE}, not measured with bitrl", rows)


def _short(milliseconds: float) -> str:
    """Three digits."""
    if milliseconds >= 100:
        return f"{milliseconds:,.0f}"
    return f"{milliseconds:.1f}" if milliseconds >= 10 else f"{milliseconds:.3f}"


def _draw(plot: Path, found: dict[str, Any]) -> None:
    """The latency of an act over time, as a picture."""
    from bitrl.cli.plot import draw
    from bitrl.core.studies.curves import Curve

    rows = found["over_time"]
    seconds = tuple(row["second"] for row in rows)
    curves = [
        Curve(label, seconds, tuple(row[key] for row in rows), None, None)
        for label, key in (("median", "p50_ms"), ("p99", "p99_ms"), ("largest", "max_ms"))
    ]
    draw(plot, f"Latency of an act: {found['env']}", "seconds", "milliseconds", curves)
