"""`bitrl model list`: the models of the catalogue, and which are downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitrl.cli.output import claim_stdout, echo, json_option, print_json, table
from bitrl.core.wording import program

if TYPE_CHECKING:
    from bitrl.plugins.backbones.catalogue import ModelEntry


@click.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """List the models of the catalogue, and which are downloaded.

    Any Hugging Face repository of a supported architecture has a name, too: hf:OWNER/NAME.
    """
    from bitrl.plugins.backbones.catalogue import ENTRIES, find
    from bitrl.plugins.backbones.catalogue.receipts import every

    stdout = claim_stdout() if as_json else None
    others = [find(record.name) for record in every() if record.name not in ENTRIES]
    rows = [_facts(entry) for entry in [*ENTRIES.values(), *others]]
    if as_json:
        print_json({"models": rows}, stdout)
        return
    heads = ("name", "size", "weights", "precision", "architecture", "licence", "downloaded", "source")
    echo(table([heads, *(_row(row) for row in rows)], indent=""))
    echo(
        f"\nSizes are those of the files to download, or downloaded. Download one: {program()} model pull NAME; "
        "use it: -o backbone.model=NAME. Any hf:OWNER/NAME of a supported architecture is a name, too."
    )


def _facts(entry: ModelEntry) -> dict[str, Any]:
    from bitrl.plugins.backbones.catalogue import Recipe, local, receipts

    path, record = local(entry), receipts.read(entry.name)
    facts = {
        "name": entry.name,
        "summary": entry.summary or None,
        "licence": entry.licence,
        "precision": entry.precision,
        "architecture": entry.architecture,
        "parameters": entry.parameters,
        "bytes": record.bytes if record else path.stat().st_size if path else entry.bytes,
        "source": str(entry.source),
        "file": getattr(entry.source, "file", None) or getattr(entry.source, "member", None),
        "sha256": getattr(entry.source, "sha256", None),
        "origin": record.origin if record else None,
        "path": str(path) if path else None,
        "recipe": list(entry.source.commands) if isinstance(entry.source, Recipe) else None,
    }
    missing = [key for key in ("precision", "architecture", "parameters") if facts[key] is None]
    if path is not None and missing:
        facts |= {key: value for key, value in _read(path, entry).items() if key in missing}
    return facts


def _read(path: Path, entry: ModelEntry) -> dict[str, Any]:
    """The facts in its files; none if they cannot be read."""
    import math
    from collections import Counter

    from bitrl.plugins.backbones.engine.engine import open_model
    from bitrl.plugins.backbones.files.model_file import ModelFileError

    try:
        file = open_model(path, **entry.hints)
    except ModelFileError:
        return {}
    tensors = file.tensors()
    types = Counter({tensor.type: 0 for tensor in tensors})
    for tensor in tensors:
        types[tensor.type] += math.prod(tensor.shape) * tensor.name.startswith("blk.")
    return {
        "precision": types.most_common(1)[0][0],
        "architecture": file.metadata().get("general.architecture"),
        "parameters": sum(math.prod(tensor.shape) for tensor in tensors),
    }


def _row(facts: dict[str, Any]) -> tuple[str, ...]:
    said = (facts[key] or "unknown" for key in ("precision", "architecture", "licence"))
    sizes = (_amount(facts["bytes"], "B"), _amount(facts["parameters"], ""))
    if facts["recipe"]:
        sizes = ("–", "–")
    return (facts["name"], *sizes, *said, "yes" if facts["path"] else "no", facts["source"])


def _amount(number: int | None, unit: str) -> str:
    if number is None:
        return "unknown"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {prefix}{unit}"
    return f"{number} {unit}"
