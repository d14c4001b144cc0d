"""`bitrl model generate`: a prompt, and what a model makes of it."""

from __future__ import annotations

import sys

import click

from bitrl.cli import completion
from bitrl.cli.output import echo, json_option, print_json


@click.command()
@click.argument("model", shell_complete=completion.models)
@click.argument("prompt")
@click.option("--max-tokens", type=click.IntRange(1), default=128, show_default=True, help="At most so many.")
@click.option(
    "--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0: always the likeliest token."
)
@click.option("--top-k", type=click.IntRange(0), default=0, show_default=True, help="Among so many likeliest; 0: all.")
@click.option(
    "--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True,
    help="Among the likeliest that together have this probability.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed.")
@click.option("--format", metavar="FORMAT", help="ternary, int8, int4, fp8, bf16 or fp32.  [default: the file's own]")
@click.option("--plain", is_flag=True, help="Go on with the prompt as it is, without the model's chat template.")
@click.option("--activation", help="The feed-forward network's, for a model that does not name it.")
@click.option("--threads", type=click.IntRange(0), default=0, help="0: as many as the CPUs this process may use.")
@json_option
def generate(
    model: str, prompt: str, max_tokens: int, temperature: float, top_k: int, top_p: float, seed: int,
    format: str | None, plain: bool, activation: str | None, threads: int, as_json: bool,
) -> None:  # fmt: skip
    """Let a model answer a prompt, in its chat template if it has one.

    MODEL is a GGUF file, a directory with safetensors, or a name of `bitrl model list`. The prompt is text: a control
    token that it spells is not one. A prompt of - is read from the standard input, to its end.
    """
    from bitrl.core.errors import UsageError
    from bitrl.plugins.backbones.catalogue import hints, resolve
    from bitrl.plugins.backbones.engine.engine import Engine
    from bitrl.plugins.backbones.tools.chat import Chat

    if prompt == "-":
        try:
            prompt = sys.stdin.buffer.read().decode().removesuffix("\n")
        except UnicodeDecodeError:
            raise UsageError("the prompt on the standard input: expected text in UTF-8") from None
    path, known = resolve(model), hints(model)
    engine = Engine(
        path, format, threads=threads, activation=activation or known["activation"], linear_class=known["linear_class"]
    )
    chat = Chat(engine)
    text, tokens, ids = chat.answer(
        prompt, max_tokens, plain=plain, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    if as_json:
        templated = chat.template is not None and not plain
        found = {"model": model, "format": engine.format, "chat_template": templated, "prompt_tokens": len(ids)}
        print_json(found | {"text": text, "tokens": len(tokens), "ended": tokens[-1] in chat.ends})
        return
    echo(text)
