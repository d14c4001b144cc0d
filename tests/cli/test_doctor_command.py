"""`bitrl doctor`: finds what is wrong, says what to do, and never falls over it."""

from __future__ import annotations

import errno
import json
import platform
import re
import sys
import tempfile
from importlib import metadata

import pytest

import bitrl.plugins.backbones as backbones
from bitrl.cli import doctor
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine import engine


def findings(check) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine(check)}


def test_exit_code_and_json_agree_with_the_findings(bitrl) -> None:
    said, found = bitrl("doctor"), bitrl("doctor", "--json")
    report = json.loads(found.out)
    assert report["ok"] is all(finding["ok"] for finding in report["findings"])
    assert said.code == found.code == (0 if report["ok"] else 1)
    for finding in report["findings"]:
        # Between the two commands somebody else may have written to the disk.
        assert re.sub(r"[\d,]+ MB free", "", finding["detail"]) in re.sub(r"[\d,]+ MB free", "", said.out)
        assert finding["ok"] or finding["remedy"] in said.out


def test_this_installation_has_its_packages_engine_and_plugins() -> None:
    for check in (doctor._python, doctor._packages, doctor._engine, doctor._disk, doctor._plugins):
        wrong = [finding for finding in doctor.examine(check) if not finding.ok]
        assert wrong == []
    assert findings(doctor._packages)["torch"].detail.startswith(metadata.version("torch"))


def test_package_that_is_missing(monkeypatch) -> None:
    version = metadata.version

    def without_rich(name: str) -> str:
        if name == "rich":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without_rich)
    finding = findings(doctor._packages)["rich"]
    assert not finding.ok
    assert finding.detail == "not installed"
    assert 'pip install "rich>=' in finding.remedy


def test_package_that_does_not_import(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    finding = findings(doctor._packages)["torch"]
    assert not finding.ok
    assert "does not import" in finding.detail
    assert findings(doctor._packages)["gymnasium"].ok


@pytest.mark.parametrize(("version", "ok"), [("0.29.1", False), ("1.1", True), ("1.1.0rc1", True), ("10.0+cpu", True)])
def test_package_that_is_too_old(monkeypatch, version: str, ok: bool) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["gymnasium>=1.1", 'matplotlib; extra == "bench"'])
    monkeypatch.setattr(metadata, "version", lambda name: version)
    found = findings(doctor._packages)
    assert set(found) == {"bitrl", "gymnasium"}
    assert found["gymnasium"].ok is ok


def test_engine_that_does_not_load(monkeypatch) -> None:
    monkeypatch.delattr(backbones, "engine", raising=False)
    monkeypatch.setitem(sys.modules, "bitrl.plugins.backbones.engine", None)
    finding = findings(doctor._engine)["engine"]
    assert not finding.ok
    assert "compiler" in finding.remedy


def test_every_instruction_set_of_the_engine_is_explained() -> None:
    known, flags = engine.known_instruction_sets(), doctor._cpu_flags()
    assert set(doctor.NEEDS[platform.machine()]) == set(known)
    if flags:  # Linux's own word for what this CPU has; only AMX needs its permission as well
        has = [name for name in known if flags.issuperset(doctor._needs(name))]
        assert [name for name in has if name != "avx512amx" or name in engine.instruction_sets()] == (
            engine.instruction_sets()
        )


def test_instruction_sets_that_this_cpu_lacks(monkeypatch) -> None:
    monkeypatch.setattr(engine, "instruction_sets", lambda: ["old", "scalar"])
    monkeypatch.setattr(engine, "known_instruction_sets", lambda: ["new", "old", "scalar"])
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: {"avx", "fma"})
    monkeypatch.setattr(doctor, "NEEDS", {platform.machine(): {"new": ("avx", "amx"), "old": ("avx",), "scalar": ()}})
    found = findings(doctor._engine)["engine"]
    assert found.detail == (
        "old: used, the fastest that this CPU runs; scalar also runs here; new: does not run here, lacks amx"
    )
    assert found.facts["instruction_sets"][0] == {"name": "new", "runs": False, "used": False, "lacks": ["amx"]}
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: {"avx", "amx"})
    assert findings(doctor._engine)["engine"].detail.endswith("new: does not run here, the system does not allow it")
    monkeypatch.setattr(doctor, "_cpu_flags", set)  # where nothing is known, nothing is said to lack
    assert findings(doctor._engine)["engine"].detail.endswith("new: does not run here")


def test_threads_and_why(monkeypatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr(engine, "available_cpus", lambda: 3)
    found = findings(doctor._engine)["threads"]
    assert found.detail == "3: this process may use no more of this machine's 64 CPUs"
    assert found.facts == {"threads": 3, "cpus": 64}
    monkeypatch.setattr(engine, "available_cpus", lambda: 64)
    assert findings(doctor._engine)["threads"].detail == "64: every CPU of this machine"


def test_formats_are_the_engines() -> None:
    assert findings(doctor._engine)["formats"].facts == {"formats": engine.formats()}


def test_starter_model_that_is_missing_or_damaged(monkeypatch, tmp_path) -> None:
    def missing(ternary: bool) -> None:
        raise UsageError("there is none")

    monkeypatch.setattr("bitrl.plugins.backbones.language_model.starter_path", missing)
    assert [finding.detail for finding in findings(doctor._starter_models).values()] == ["there is none"] * 2
    damaged = tmp_path / "starter.gguf"
    damaged.write_bytes(b"GGUF" + bytes(100))
    monkeypatch.setattr("bitrl.plugins.backbones.language_model.starter_path", lambda ternary: damaged)
    finding = findings(doctor._starter_models)["starter model"]
    assert not finding.ok
    assert str(damaged) in finding.detail
    assert finding.remedy


def test_place_that_cannot_be_written(monkeypatch) -> None:
    def refuse(**where: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    finding = findings(doctor._disk)["disk"]
    assert not finding.ok
    assert "Read-only file system" in finding.detail
    assert "--out" in finding.remedy


def test_disk_that_is_nearly_full(monkeypatch) -> None:
    class Usage:
        free = 5 * 2**20

    monkeypatch.setattr("shutil.disk_usage", lambda place: Usage)
    assert not findings(doctor._disk)["disk"].ok


def test_check_that_fails_by_itself_is_a_finding() -> None:
    def _moon():
        raise ValueError("no\nmoon")
        yield

    assert findings(_moon)["moon"].detail == "ValueError: no moon"


BROKEN = "raise SystemExit('bye')"
UNLOADABLE = """
import bitrl

@bitrl.hookimpl
def bitrl_backbones():
    yield bitrl.BackboneRecord(name="ghost", summary="is not there", target="nowhere_at_all:Ghost")
"""


def test_plugins_with_problems(installed) -> None:
    done = installed(broken=BROKEN, unloadable=UNLOADABLE)("doctor", "--json")
    assert done.code == 1
    wrong = {finding["check"]: finding for finding in json.loads(done.out)["findings"] if not finding["ok"]}
    assert "bye" in wrong["plugin broken"]["detail"]
    assert "pip uninstall broken" in wrong["plugin broken"]["remedy"]
    assert "nowhere_at_all" in wrong["plugin unloadable"]["detail"]
