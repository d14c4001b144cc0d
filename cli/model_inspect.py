"""`bitrl model inspect`: the contents of a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bitrl.cli import completion
from bitrl.cli.output import echo, json_option, print_json, table


@click.command()
@click.argument("model", shell_complete=completion.models)
@click.option(
    "--lora-rank",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Rank of adapters whose memory is shown.",
)
@json_option
def inspect(model: str, lora_rank: int, as_json: bool) -> None:
    """Show what is in a model, whether the engine runs it or what is unsupported, and the memory it needs.

    MODEL is a GGUF file, a directory with safetensors, a name of `bitrl model list`, or a shape without weights, such
    as random:bitnet-2b-4t (`bitrl bench --help`).
    """
    from bitrl.plugins.backbones.benchmark.random_model import random_model, random_shape
    from bitrl.plugins.backbones.catalogue import hints, resolve

    kind, _, shape = model.partition(":")
    if kind == "random":
        with random_model(random_shape(shape), empty=True) as path:
            found = _facts(path, {}, lora_rank) | {"file": model}
    else:
        found = _facts(resolve(model), hints(model), lora_rank)
    if as_json:
        print_json(found)
        return
    sizes = [(key, f"{found[key]:,}") for key in ("bytes", "weights", "ternary_weights")]
    echo(f"{model} {found['verdict']['words']}\n")
    echo(table([("architecture", found["architecture"]), *sizes, ("checksum", found["checksum"])], indent=""))
    if found["memory"]:
        echo(f"\nin memory\n{table(_memory_rows(found['memory']))}")
        echo(f"\ntraining adapters of rank {lora_rank} (lora_rank), beside these\n{table(_lora_rows(found['memory']))}")
    echo(f"\nhyper-parameters\n{table([(key, str(value)) for key, value in found['parameters'].items()])}")
    echo(f"\ntokenizer\n{table([(key, str(value)) for key, value in found['tokenizer'].items()])}")
    rows = [
        (kind, f"{total['tensors']} tensors", f"{total['weights']:,} weights", f"{total['bytes']:,} bytes")
        for kind, total in found["types"].items()
    ]
    echo(f"\ntypes\n{table(rows)}")
    rows = [(t["name"], t["type"], "x".join(map(str, t["shape"])), f"{t['bytes']:,} bytes") for t in found["tensors"]]
    echo(f"\ntensors\n{table(rows)}")


def _memory_rows(memory: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [(f"blocks as {format}", f"{size:,} bytes") for format, size in memory["matrices"].items()]
    rows.append(("embedding and head", f"{memory['embedding']:,} bytes, read from the file as needed"))
    return [*rows, ("generating", f"{memory['cache_per_token']:,} bytes per token")]


def _lora_rows(memory: dict[str, Any]) -> list[tuple[str, str]]:
    lora = memory["lora"]
    if lora is None:
        return [("not possible", "a projection is narrower than the rank")]
    sizes = {
        "adapters": lora["adapters"],
        "gradients": lora["gradients"],
        "Adam's moments": lora["moments"],
        "activations of 64 texts of 32 tokens": lora["activations"],
        "frozen weights in torch": lora["weights"],
    }
    sizes["in all"] = sum(sizes.values())
    return [(name, f"{size:,} bytes") for name, size in sizes.items()]


def _facts(path: Path, known: dict[str, str | None], lora_rank: int) -> dict[str, Any]:
    import math

    from bitrl.plugins.backbones.tools.inspection import as_dict
    from bitrl.plugins.backbones.tools.inspection import inspect as look

    inspected = look(path, **known, lora_rank=lora_rank)
    file, verdict = inspected.file, inspected.verdict
    checksum = file.verify(largest=None)
    metadata, tensors = file.metadata(), file.tensors()
    architecture = metadata.get("general.architecture", "unknown")
    prefix = f"{architecture}."
    ternary = {"TQ1_0", "TQ2_0", "Q1_0", "Q2_0", "I2_S", "HF_PACKED"}
    return {
        "file": str(path),
        "verdict": {
            "words": verdict.words,
            "runs": not verdict.problems,
            "needs": verdict.needs,
            "problems": verdict.problems,
        },
        "architecture": architecture,
        "bytes": file.size,
        "weights": sum(math.prod(tensor.shape) for tensor in tensors),
        "ternary_weights": sum(math.prod(tensor.shape) for tensor in tensors if tensor.type in ternary),
        "checksum": checksum,
        "memory": as_dict(inspected.memory),
        "types": inspected.totals,
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
