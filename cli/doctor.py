"""`bitrl doctor`: is everything here that bitrl needs, and if not, what to do. Each check is one function.

A check imports what it looks at by itself, so that a broken part is found, not tripped over.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import click

from bitrl.cli.kinds import PLURALS
from bitrl.cli.output import claim_stdout, echo, json_option, print_json, table
from bitrl.core.findings import Finding
from bitrl.core.installing import LEFT_OUT, is_there
from bitrl.core.wording import pip

SPACE_NEEDED_MB = 200
"""Free disk space below which a run may fail: checkpoints, their temporary copies and the metrics."""


@click.command
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check this installation, and suggest fixes.

    The exit code is 1 if something is wrong.
    """
    stdout = claim_stdout() if as_json else None
    from bitrl.core.registry import registry

    registry()  # before a check imports what a plugin should not
    findings = [finding for check in (*CHECKS, _checks_of_plugins) for finding in examine(check)]
    wrong = [finding for finding in findings if not finding.ok]
    if as_json:
        rows = [
            {"check": each.name, "ok": each.ok, "detail": each.detail, "remedy": each.remedy, "facts": each.facts}
            for each in findings
        ]
        print_json({"ok": not wrong, "findings": rows}, stdout)
    else:
        echo(table([("ok" if each.ok else "WRONG", each.name, each.detail) for each in findings], indent=""))
        if wrong:
            echo("\nsuggested fixes\n" + table([(finding.name, finding.remedy) for finding in wrong]))
        else:
            echo("\nEverything is in order.")
    if wrong:
        ctx.exit(1)


def examine(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What `check` found; one that fails by itself is a finding, too."""
    try:
        return list(check())
    except Exception as error:
        name = check.__name__.strip("_").replace("_", " ")
        return [Finding(name, False, _one_line(error), f"reinstall bitrl: {pip('install --force-reinstall bitrl')}")]


def _python() -> Iterator[Finding]:
    detail = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {sys.executable}"
    yield Finding("python", sys.version_info >= (3, 11), detail, "install Python 3.11 or newer")


def _packages() -> Iterator[Finding]:
    """bitrl and what it depends on: installed, new enough, and importable."""
    yield Finding("bitrl", True, metadata.version("bitrl"))
    for requirement in metadata.requires("bitrl") or ():
        if ";" in requirement:  # of an extra
            continue
        name, needed = re.fullmatch(r"([\w.-]+)\s*(?:>=\s*([\d.]+))?.*", requirement).groups()  # type: ignore[union-attr]
        install = pip(f'install "{requirement}"')
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            needed_by = LEFT_OUT.get(name)
            detail = f"not installed: {needed_by} need it, all else does not" if needed_by else "not installed"
            yield Finding(name, needed_by is not None, detail, install)
            continue
        try:
            importlib.import_module(name.replace("-", "_"))
        except Exception as error:
            yield Finding(
                name,
                False,
                f"{version} does not import: {_one_line(error)}",
                pip(f"install --force-reinstall {name}"),
            )
            continue
        old = needed is not None and _numbers(version) < _numbers(needed)
        yield Finding(name, not old, f"{version}, but {needed} is needed" if old else version, install)


def _engine() -> Iterator[Finding]:
    """The C engine: does it load, and which instructions, how many threads and which formats are there."""
    remedy = "install a C compiler (Debian, Ubuntu: apt install gcc python3-dev) and reinstall bitrl"
    try:
        from bitrl.plugins.backbones.engine import engine
    except ImportError as error:
        yield Finding("engine", False, f"the C engine does not load: {_one_line(error)}", remedy)
        return
    here, known, has = engine.instruction_sets(), engine.known_instruction_sets(), _cpu_flags()
    lacks = {name: [flag for flag in _needs(name) if flag not in has] if has else [] for name in known}
    words = [f"{here[0]}: used, the fastest that this CPU runs"]
    if here[1:]:
        words.append(f"{', '.join(here[1:])} also {'run' if here[2:] else 'runs'} here")
    for name in known:
        if name not in here:
            why = (
                f", lacks {', '.join(lacks[name])}" if lacks[name] else ", the system does not allow it" if has else ""
            )
            words.append(f"{name}: does not run here{why}")
    facts = [{"name": name, "runs": name in here, "used": name == here[0], "lacks": lacks[name]} for name in known]
    yield Finding("engine", True, "; ".join(words), facts={"instruction_sets": facts})
    threads, cpus = engine.available_cpus(), os.cpu_count() or 1
    why = (
        "every CPU of this machine"
        if threads == cpus
        else f"this process may use no more of this machine's {cpus} CPUs"
    )
    yield Finding("threads", True, f"{threads}: {why}", facts={"threads": threads, "cpus": cpus})
    yield Finding("formats", True, ", ".join(engine.formats()), facts={"formats": engine.formats()})


_VNNI = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni")
_BF16 = (*_VNNI, "avx512_bf16", "avx512vbmi")
NEEDS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "avx512amx": (*_BF16, "amx_tile", "amx_int8", "amx_bf16"),
        "avx512bf16": _BF16,
        "avx512vnni": _VNNI,
        "avx2": ("avx2", "fma"),
        "scalar": (),
    },
    "aarch64": {"neondot": ("asimd", "asimddp"), "neon": ("asimd",), "scalar": ()},
}
"""What each of the engine's instruction sets needs of a CPU, in Linux's words for it (/proc/cpuinfo), by machine."""


def _needs(name: str) -> tuple[str, ...]:
    return NEEDS.get(platform.machine(), {}).get(name, ())


def _cpu_flags() -> set[str]:
    """What this CPU says it can do, as /proc/cpuinfo lists it; nothing where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(line[1].split()) if line else set()


def _starter_models() -> Iterator[Finding]:
    """The two models in the package: there, and byte for byte what was shipped."""
    from bitrl.core.errors import BitrlError

    remedy = "reinstall bitrl, or name another model with -o backbone.model=FILE"
    for name, ternary in (("starter model", True), ("starter twin", False)):
        try:
            from bitrl.plugins.backbones.files.model_file import ModelFile
            from bitrl.plugins.backbones.language_model import starter_path

            path = starter_path(ternary)
            file = ModelFile(path)
            seal = file.verify(None)
        except (BitrlError, ImportError) as error:
            yield Finding(name, False, _one_line(error), remedy)
            continue
        sealed = "its checksums match" if seal == "sealed" else "it carries no checksum"
        yield Finding(name, seal == "sealed", f"{path.name}, {file.size / 2**20:.1f} MB, {sealed}", remedy)


def _disk() -> Iterator[Finding]:
    """Can a run be written from here."""
    place = Path("runs") if Path("runs").is_dir() else Path()
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"bitrl")
    except OSError as error:
        remedy = "go to a directory that you may write to, or name one with --out"
        yield Finding("disk", False, f"{place.resolve()} cannot be written: {error.strerror}", remedy)
        return
    free = shutil.disk_usage(place).free / 2**20
    detail = f"{place.resolve()} can be written, {free:,.0f} MB free"
    yield Finding(
        "disk",
        free >= SPACE_NEEDED_MB,
        detail,
        f"free {SPACE_NEEDED_MB} MB, or name another place with --out",
    )


def _plugins() -> Iterator[Finding]:
    """Every package that brings components: are its names its own, does its code import."""
    from bitrl.core.registry import registry

    counts: dict[str, list[str]] = {}
    for kind, entries in registry().entries.items():
        for package in sorted({entry.package for entry in entries}):
            number = sum(entry.package == package for entry in entries)
            counts.setdefault(package, []).append(f"{number} {PLURALS[kind] if number > 1 else kind}")
    for package, parts in sorted(counts.items()):
        yield Finding(f"plugin {package}", True, ", ".join(parts))
    for problem in registry().problems:
        remedy = f"update {problem.package}, tell its authors, or remove it: {pip(f'uninstall {problem.package}')}"
        yield Finding(f"plugin {problem.package}", False, problem.message, remedy)
    for problem in registry().costs:
        yield Finding(
            f"plugin {problem.package}", False, problem.message, f"update {problem.package}, or tell its authors"
        )
    for problem in registry().conflicts():
        remedy = f"choose one by its full name, as {problem.package}:NAME, or uninstall a package"
        yield Finding(f"plugin {problem.package}", False, problem.message, remedy)
    for kind, entries in registry().entries.items():
        for entry in entries if kind != "doctor-check" else ():  # those are imported when they run
            try:
                entry.record.load()
            except Exception as error:
                missing = getattr(error.__cause__, "name", None)
                if missing in LEFT_OUT and not is_there(missing):
                    continue  # said of the package
                remedy = "install what it lacks, or update the package that brings it"
                yield Finding(f"plugin {entry.package}", False, f"{kind} {_one_line(error)}", remedy)


def _checks_of_plugins() -> Iterator[Finding]:
    """The checks that plugins bring; one that fails by itself is a finding about its package."""
    from bitrl.core.registry import registry

    for package, record in [(entry.package, entry.record) for entry in registry().entries["doctor-check"]]:
        if package == "bitrl":
            continue
        try:
            for finding in record.load()():
                if not isinstance(finding, Finding):
                    raise TypeError(f"expected bitrl.Finding objects, got {finding!r}")
                yield finding
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            remedy = f"update {package}, tell its authors, or remove it: {pip(f'uninstall {package}')}"
            yield Finding(
                f"plugin {package}", False, f'doctor-check "{record.name}" failed: {_one_line(error)}', remedy
            )


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python,
    _packages,
    _engine,
    _starter_models,
    _disk,
    _plugins,
)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _one_line(error: BaseException) -> str:
    from bitrl.core.registry import one_line

    return one_line(error)
