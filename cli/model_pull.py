"""`bitrl model pull`: download a model by name."""

from __future__ import annotations

import click

from bitrl.cli import completion
from bitrl.cli.output import echo, json_option, print_json
from bitrl.core.wording import program


@click.command()
@click.argument("name", shell_complete=completion.models)
@click.option("--update", is_flag=True, help="Ask its source again, even if it is downloaded.")
@json_option
def pull(name: str, update: bool, as_json: bool) -> None:
    """Download a model by name, and check its hash.

    NAME is one of `bitrl model list`, hf:OWNER/NAME, or hf:OWNER/NAME/FILE.gguf, the last two optionally followed by
    @REVISION. An interrupted download resumes. Models of the hub are stored in huggingface_hub's cache (HF_HOME), and
    HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are respected; others are stored in XDG_CACHE_HOME/bitrl.
    """
    import attrs

    from bitrl.cli.output import claim_stdout
    from bitrl.plugins.backbones.catalogue import ENTRIES, Recipe
    from bitrl.plugins.backbones.catalogue import pull as get

    entry = ENTRIES.get(name)
    stdout = claim_stdout() if as_json else None
    if entry is not None and isinstance(entry.source, Recipe):
        if as_json:
            print_json({"name": name, "recipe": list(entry.source.commands)}, stdout)
        else:
            echo(f"{name} is built, not downloaded: run this, then name the file written (-o backbone.model=FILE)")
            echo("\n".join(f"  {program()}{command.removeprefix('bitrl')}" for command in entry.source.commands))
        return
    pulled = get(name, update)
    if as_json:
        print_json(attrs.asdict(pulled) | {"bytes": pulled.bytes}, stdout)
        return
    for file in pulled.files:
        echo(f"{file.path}: {file.bytes:,} bytes, SHA-256 {file.sha256}")
    echo(f"{name} is downloaded ({pulled.origin}): {pulled.path}")
    echo(f"use it: -o backbone.model={name}")
