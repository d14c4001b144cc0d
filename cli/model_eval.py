"""`bitrl model eval`: how well a model predicts a text, a format beside another."""

from __future__ import annotations

import codecs
from pathlib import Path

import click

from bitrl.cli import completion
from bitrl.cli.output import echo, json_option, print_json, table


@click.command("eval")
@click.argument("model", shell_complete=completion.models)
@click.argument("text", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--format", "formats", metavar="FORMAT", multiple=True,
    help="ternary, int8, int4, fp8, bf16 or fp32; repeat for more.  [default: the file's own]",
)  # fmt: skip
@click.option(
    "--window", type=click.IntRange(2), default=512, show_default=True, help="Tokens that are read together, at most."
)
@click.option(
    "--most", type=click.IntRange(1), default=200_000, show_default=True, help="Bytes of the text, from its start."
)
@click.option("--activation", help="The feed-forward network's, for a model that does not name it.")
@click.option("--threads", type=click.IntRange(0), default=0, help="0: as many as the CPUs this process may use.")
@json_option
def evaluate(
    model: str, text: Path, formats: tuple[str, ...], window: int, most: int, activation: str | None, threads: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Measure how many bits a model needs for each byte of a text (less is better), in one format or several.

    MODEL is as in `bitrl model generate`, TEXT a file of UTF-8.
    """
    from bitrl.core.errors import UsageError
    from bitrl.plugins.backbones.catalogue import hints, resolve
    from bitrl.plugins.backbones.engine.engine import Engine
    from bitrl.plugins.backbones.tools.chat import Chat

    path, known = resolve(model), hints(model)
    try:
        raw = text.read_bytes()
        # A character that is cut by the limit is left out; nothing else is.
        content = codecs.getincrementaldecoder("utf-8")().decode(raw[:most], final=len(raw) <= most)
    except UnicodeDecodeError as error:
        got = f"byte {error.start:,} = 0x{raw[error.start]:02x}"
        raise UsageError(f"{text}: expected text in UTF-8, got {got}") from None
    except OSError as error:
        raise UsageError(f"{text}: cannot be read: {error.strerror}") from None
    found = []
    for format in formats or (None,):
        engine = Engine(
            path, format, threads=threads, activation=activation or known["activation"],
            linear_class=known["linear_class"],
        )  # fmt: skip
        bits, tokens = Chat(engine).bits(content, window)
        size = len(content.encode())
        found.append(
            {
                "format": engine.format,
                "bits_per_byte": bits / size,
                "perplexity": 2 ** (bits / tokens),
                "tokens": tokens,
            }
        )
    if as_json:
        print_json({"model": model, "text": str(text), "bytes": len(content.encode()), "formats": found})
        return
    rows = [("format", "bits per byte", "perplexity per token", "tokens")]
    rows += [
        (str(x["format"]), f"{x['bits_per_byte']:.4f}", f"{x['perplexity']:.2f}", f"{x['tokens']:,}") for x in found
    ]
    echo(f"{model} on {text} ({len(content.encode()):,} bytes)\n{table(rows)}")
