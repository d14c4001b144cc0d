"""`bitrl export`: a trained agent, or a language model that was taught, as a standalone file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bitrl.cli import completion
from bitrl.cli.output import claim_stdout, echo, json_option, print_json
from bitrl.core.errors import UsageError
from bitrl.core.terminal import shell_word
from bitrl.core.wording import program


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path), shell_complete=completion.runs)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The file: of an agent .safetensors, of a language model .gguf.",
)
@click.option("--best", is_flag=True, help="The best checkpoint by the evaluations while training, not the newest.")
@click.option("--bitdelta", is_flag=True, help="Store what adapters learned as one bit a weight, and measure the cost.")
@click.option(
    "--episodes",
    type=click.IntRange(min=1),
    help="With --bitdelta: episodes to tune its scales on and to measure the return (10).",
)
@click.option(
    "--with-optimizer",
    is_flag=True,
    help="Keep what the optimizer knows, too, so that `bitrl run --resume FILE` goes on as the run itself would.",
)
@click.option(
    "--c", "for_c", is_flag=True, help="Write an agent that runs without Python, its language model included (.gguf)."
)
@click.option("--force", is_flag=True, help="Replace the file if there is one.")
@json_option
def export(
    directory: Path,
    out: Path,
    best: bool,
    bitdelta: bool,
    episodes: int | None,
    with_optimizer: bool,
    for_c: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Export a trained agent or language model to a file.

    DIR is the directory of a run; its newest checkpoint is exported. The file of an agent holds the serializer, the
    backbone's name and options, the trained policy, and what to learn on from; the language model stays a file of its
    own. `bitrl act FILE` and, in Python, `bitrl.load_agent(FILE)` use it, and need neither torch nor Gymnasium nor the
    environment. `bitrl run --resume FILE` learns on from it.

    Where the run taught a language model (`--algo grpo`), that is written as a GGUF file with its tokenizer: for
    `-o backbone.model=FILE`, and for llama.cpp. Weights that learned are float32, of a ternary backbone ternary;
    adapters are merged into the matrices of a backbone of floats, and refused beside others.

    The adapters of a run with backbone.lora_rank are in the file too. With --bitdelta it holds the signs of what they
    learned and a scale per matrix, about 32 times smaller.

    With --c the file is a GGUF file that `bitrl-act` and libbitrl run without Python (`make act`, docs/c.md): the
    policy, the pieces of the serializer's text, the tokenizer and the language model in one.
    """
    from bitrl.cli.model_out import check_paths
    from bitrl.core.runs import export as exporting

    check_paths(directory, out, force)
    if episodes is not None and not bitdelta:
        raise UsageError("--episodes is how long --bitdelta measures: add that, or leave --episodes out")
    stdout = claim_stdout() if as_json else None
    found = exporting.export(
        directory, out, best=best, bitdelta=bitdelta, episodes=episodes or 10, with_optimizer=with_optimizer, c=for_c
    )
    if as_json:
        print_json(found, stdout)
        return
    if "unsupported" in found:
        for lack in found["unsupported"]:
            echo(f"{out}: {lack}", err=True)
        echo(
            f"{out}: {found['bytes']:,} bytes, the language model after {found['step']:,} completions of {found['env']}"
        )
        echo(f"inspect it: {program()} model inspect {shell_word(out)}")
        again = f"--backbone {found['backbone']} -o backbone.model={shell_word(out)}"
        echo(f"go on with it: {program()} run --algo {found['algo']} --env {shell_word(found['env'])} {again}")
        return
    reads = "no model" if found["backbone"] is None else f"backbone {found['backbone']}"
    echo(f"{out}: {found['bytes']:,} bytes, {found['env']} after {found['step']:,} steps, reads {reads}")
    if "bitdelta" in found:
        echo(cost_of_bitdelta(found["bitdelta"]))
    call = f"build/bitrl-act {shell_word(out)}" if for_c else f"{program()} act {shell_word(out)}"
    echo(f"try it: {call} --example | {call}")


def cost_of_bitdelta(cost: Mapping[str, Any]) -> str:
    """What storing adapters as one bit a weight saves and costs, as a line."""
    return (
        f"adapters in {cost['bytes']:,} bytes instead of {cost['adapter_bytes']:,}: features differ by "
        f"{cost['feature_error']:.2%} ({cost['feature_error_untuned']:.2%} before tuning the scales), "
        f"{cost['equal_actions']:.1%} of greedy actions are the same, mean return {cost['mean_return']:.1f} instead of "
        f"{cost['mean_return_in_full']:.1f} (greedy actions, {cost['episodes']} episodes)"
    )
