"""`bitrl model inspect`: look into a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bitrl.cli.output import json_option, print_json, table


@click.command()
@click.argument("model")
@json_option
def inspect(model: str, as_json: bool) -> None:
    """Show what is in a model: architecture, tensors, tokenizer, checksum.

    MODEL is a GGUF file, a directory with safetensors, or a name of `bitrl model list`.
    """
    from bitrl.plugins.backbones.catalogue import hints, resolve

    found = _facts(resolve(model), hints(model))
    if as_json:
        print_json(found)
        return
    sizes = [(key, f"{found[key]:,}") for key in ("bytes", "weights", "ternary_weights")]
    click.echo(table([("architecture", found["architecture"]), *sizes, ("checksum", found["checksum"])], indent=""))
    click.echo(f"\nhyper-parameters\n{table([(key, str(value)) for key, value in found['parameters'].items()])}")
    click.echo(f"\ntokenizer\n{table([(key, str(value)) for key, value in found['tokenizer'].items()])}")
    rows = [(t["name"], t["type"], "x".join(map(str, t["shape"])), f"{t['bytes']:,} bytes") for t in found["tensors"]]
    click.echo(f"\ntensors\n{table(rows)}")


def _facts(path: Path, known: dict[str, str | None]) -> dict[str, Any]:
    import math

    from bitrl.plugins.backbones.engine import open_model

    file = open_model(path, **known)
    checksum = file.verify(largest=None)
    metadata, tensors = file.metadata(), file.tensors()
    architecture = metadata.get("general.architecture", "unknown")
    prefix = f"{architecture}."
    ternary = {"TQ1_0", "TQ2_0", "I2_S", "HF_PACKED"}
    return {
        "file": str(path),
        "architecture": architecture,
        "bytes": file.size,
        "weights": sum(math.prod(tensor.shape) for tensor in tensors),
        "ternary_weights": sum(math.prod(tensor.shape) for tensor in tensors if tensor.type in ternary),
        "checksum": checksum,
        "parameters": {
            key.removeprefix(prefix): _plain(value) for key, value in metadata.items() if key.startswith(prefix)
        },
        "tokenizer": {
            key.removeprefix("tokenizer.ggml."): _plain(value)
            for key, value in metadata.items()
            if key.startswith("tokenizer.")
        },
        "tensors": [
            {"name": tensor.name, "type": tensor.type, "shape": list(tensor.shape), "bytes": tensor.bytes}
            for tensor in tensors
        ],
    }


def _plain(value: Any) -> Any:
    """Lists (a vocabulary) as their length; numbers and short texts as they are."""
    return value if isinstance(value, (str, int, float, bool)) else f"{len(value)} entries"
