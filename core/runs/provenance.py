"""What a result depends on besides the configuration: versions, commit, processor; and a process's peak memory."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any

from bitrl.core import process_memory
from bitrl.core.config import Config
from bitrl.core.cpus import available_cpus
from bitrl.core.hookspecs import PROJECT
from bitrl.core.installing import normalised
from bitrl.core.registry import registry

_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimd", "asimddp")


_MACHINE = ("platform", "machine")
"""What `versions` says of the machine: a run may go on on another."""

_MOST_FILES = 1000


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """The versions that a result depends on: Python, the platform, and in alphabetical order every distribution that
    this process has imported from, and `packages`.
    """
    found = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine()}
    return found | dict(sorted({**_imported(), **_installed(packages)}.items()))


def packages_of(config: Config) -> set[str]:
    """The distributions that provide a run's components."""
    parts = (config.environment, config.serializer, config.backbone, config.critic_backbone, config.algorithm)
    records = [*parts, *(logger.record for logger in config.loggers)]
    packages = (registry().package(record) for record in records if record is not None)
    return {package for package in packages if package is not None}


def plugins_of(config: Config) -> dict[str, dict[str, str]]:
    """Of each component that is not bitrl's own: its package (or `module`, for an environment named module:Id) and the
    SHA-256 of its code, which tells two states of a package under development that have one version.
    """
    parts = {
        "env": config.environment,
        "backbone": config.backbone,
        "critic_backbone": config.critic_backbone,
        "serializer": config.serializer,
        "algo": config.algorithm,
    }
    found = {}
    for part, record in parts.items():
        package = registry().package(record) if record is not None else None
        if record is not None and package not in (None, PROJECT):
            found[part] = {"package": str(package), **_code(record.target)}
    module, colon, _ = config.run.env.partition(":")
    if colon and "env" not in found:
        found["env"] = {"module": module, **_code(module)}
    return found


def changes_since(recorded: Mapping[str, Any], config: Config) -> list[str]:
    """What a run depends on that is not as its provenance recorded it: `bitrl-hex 1.0 → 1.1`, plugins first."""
    old, new = recorded.get("versions", {}), versions(packages_of(config))
    found = []
    for part, now in plugins_of(config).items():
        before = recorded.get("plugins", {}).get(part, now)
        name, earlier = (str(each.get("package", each.get("module"))) for each in (now, before))
        if name != earlier:
            found.append(f"{part} is of {name} instead of {earlier}")
        elif before.get("code") != now.get("code") and old.get(normalised(name)) == new.get(normalised(name)):
            found.append(f"the code of {name}")
    plugins = {normalised(package) for package in packages_of(config)}
    differing = [each for each in old if each in new and old[each] != new[each] and each not in _MACHINE]
    differing.sort(key=lambda each: each not in plugins)
    return [*dict.fromkeys(found), *(f"{each} {old[each]} → {new[each]}" for each in differing)]


def _code(target: str) -> dict[str, str]:
    """`{"code": SHA-256}` of the Python files of the package or module that a target lies in, once it is imported."""
    module = sys.modules.get(target.partition(":")[0].partition(".")[0])
    places = [Path(each) for each in getattr(module, "__path__", ())]
    files = [file for place in places for file in sorted(place.rglob("*.py"))]
    if not places and (own := getattr(module, "__file__", None)):
        files = [Path(own)]
    whole = hashlib.sha256()
    try:
        for file in files[:_MOST_FILES]:
            whole.update(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    except OSError:
        return {}
    return {"code": whole.hexdigest()} if files else {}


def _imported() -> dict[str, str]:
    """Name and version of each distribution that a module imported so far belongs to.

    importlib.metadata.packages_distributions() finds the same from all installed distributions, many times more
    slowly.
    """
    imported = {name.partition(".")[0] for name in sys.modules}
    found: dict[str, str] = {}
    for provided, each in _with_what_they_provide(tuple((place, _changed(place)) for place in sys.path)):
        if not imported.isdisjoint(provided):
            # Not each.name and each.version: they parse the whole of METADATA, which has the project's readme.
            head = (each.read_text("METADATA") or each.read_text("PKG-INFO") or "").partition("\n\n")[0]
            said = dict(re.findall(r"^(Name|Version): *(.*?) *$", head, re.M))
            if len(said) == 2:  # what an interrupted uninstallation leaves has neither
                found.setdefault(normalised(said["Name"]), said["Version"])  # the first on the path is the one imported
    return found


def _changed(place: str) -> int:
    """When a folder of the path was: it is when a distribution is installed there, or uninstalled."""
    with contextlib.suppress(OSError):
        return Path(place or ".").stat().st_mtime_ns
    return 0


@lru_cache(maxsize=1)
def _with_what_they_provide(path: tuple[tuple[str, int], ...]) -> list[tuple[frozenset[str], Distribution]]:
    """The names that each distribution on the path is imported by, and it. A run asks more than once."""
    found = []
    for each in distributions():
        declared = (each.read_text("top_level.txt") or "").split()
        # Lines of RECORD, as "package/module.py,sha256=…,123" or "module.py,…".
        recorded = re.findall(r"^([^/,.\n]+)[/.]", "" if declared else each.read_text("RECORD") or "", re.M)
        found.append((frozenset(declared or recorded), each))
    return found


def _installed(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[normalised(package)] = distribution(package).version
        except PackageNotFoundError:  # a module that was registered by hand
            continue
    return found


def git_commit() -> dict[str, str]:
    """`{"git_commit": …}` of the directory the process was started in; empty outside a repository."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {"git_commit": answer.stdout.strip()} if answer.returncode == 0 else {}


def processor() -> dict[str, Any]:
    """The processor's name, the CPUs this process may use, and the instruction sets that matter here."""
    name, flags = "unknown", set()
    if Path("/proc/cpuinfo").is_file():
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                name = value
            elif key in ("flags", "Features"):
                flags = set(value.split())
    return {"name": name, "cpus": available_cpus(), "features": [feature for feature in _FEATURES if feature in flags]}


def peak_rss_mb() -> float:
    """The peak resident memory of this process so far, in MB (2**20 bytes)."""
    return process_memory.peak() / process_memory.MB
