"""Where to set an option that a command itself does not have: `--num-envs` is `-o run.num_envs`."""

from __future__ import annotations

import click


def where(error: click.NoSuchOption) -> str | None:
    """`-o PART.OPTION=…` for the option that a command line names, if the command takes `-o` and a part has one of this
    name; None otherwise.
    """
    command = error.ctx.command if error.ctx is not None else None
    if command is None or not any("-o" in parameter.opts for parameter in command.params):
        return None
    from bitrl.core.config import COMPONENTS, RunOptions
    from bitrl.core.options import describe
    from bitrl.core.registry import registry

    parts: list[tuple[str, type]] = [("run", RunOptions)]
    for part, kind in COMPONENTS.items():
        if part != "critic_backbone":
            parts += [(part, entry.record.options) for entry in registry().entries[kind]]
    name = error.option_name.lstrip("-").replace("-", "_")
    having = dict.fromkeys(part for part, options in parts if name in {row.name for row in describe(options)})
    return " or ".join(f"-o {part}.{name}=…" for part in having) or None
