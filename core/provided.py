"""Who provides the components that a run's configuration or an agent's file names, on the machine where it is read."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitrl.core.config import COMPONENTS, provenance_in
from bitrl.core.errors import UsageError
from bitrl.core.installing import normalised
from bitrl.core.options import shown
from bitrl.core.registry import registry
from bitrl.core.terminal import shell_word
from bitrl.core.wording import pip, warn

MOST_MISSING = 5
"""How many distributions a message names."""


def check_provided(what: str, names: Mapping[str, Any], recorded: Mapping[str, Any]) -> None:
    """Refuse what names a component of a plugin that is not installed here.

    Args:
        what: the run or agent, for the message.
        names: the run's options that name a component ("backbone" …) → the name.
        recorded: the provenance: "plugins" (`provenance.plugins_of`) and "versions".

    Raises:
        UsageError: the message names the component, the package and what to do.
    """
    plugins, versions = _mapping(recorded.get("plugins")), _mapping(recorded.get("versions"))
    for part, kind in COMPONENTS.items():
        name, package = names.get(part), _mapping(plugins.get(part)).get("package")
        if not isinstance(name, str) or (kind == "environment" and package is None) or _is_known(kind, name):
            continue
        if package is not None:
            version = f" {versions[known]}" if (known := normalised(str(package))) in versions else ""
            raise UsageError(
                f'{what} used {kind} "{name}" of package {package}{version}, which is not installed: '
                f"{pip('install ' + shell_word(str(package)))}"
            )
        # Before 0.2 it was not recorded which package provides what.
        if missing := [f"{each} {version}" for each, version in versions.items() if not _is_installed(each)]:
            raise UsageError(
                f'{what} used {kind} "{name}", which no installed plugin provides; of the packages that it used, these '
                f"are not installed: {', '.join(missing[:MOST_MISSING])}"
            )


def check_file(file: Path, values: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> None:
    """Before a configuration file is followed in `values`: refuse a missing plugin, and announce a module.

    Args:
        file: the file, perhaps a run's.
        values: the settings made of it.
        given: the run's options that were given beside it, which are the user's own.

    Raises:
        UsageError: as `check_provided`.
    """
    named = {name: value for name, value in values.get("run", {}).items() if given.get(name) is None}
    check_provided(f"{file}: the run", named, provenance_in(file))
    announce_module(file, {"run": named})


_announced: set[str] = set()


def announce_module(file: Path, values: Mapping[str, Mapping[str, Any]]) -> None:
    """Say on stderr, before it is done, that a configuration file has a module imported: its code runs. Said once."""
    name = values.get("run", {}).get("env")
    module, colon, _ = str(name).partition(":")
    said = f"{file} {name}"
    if not colon or registry().knows("environment", str(name)) or module in sys.modules or said in _announced:
        return
    _announced.add(said)
    warn(f"{file} names the environment {shown(name)}: the module {module} is imported for it, and its code runs")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_known(kind: str, name: str) -> bool:
    return name in ("none", "") or registry().knows(kind, name)


def _is_installed(distribution: str) -> bool:
    import importlib.metadata

    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return distribution in ("python", "platform", "machine")
    return True
