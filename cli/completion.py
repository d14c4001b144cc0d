"""What a shell offers for an unfinished word: names of components, models and runs. Reads records only, imports nothing
heavy, and never fails: a completion that cannot be found is none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from click.shell_completion import CompletionItem

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def components(kind: str) -> Complete:
    """Completes names of the components of this kind, with their summaries."""

    def complete(ctx: click.Context, parameter: click.Parameter, unfinished: str) -> list[CompletionItem]:
        with contextlib.suppress(Exception):
            from bitrl.core.registry import registry

            records = [entry.record for entry in registry().entries[kind]]
            return [
                CompletionItem(each.name, help=each.summary) for each in records if each.name.startswith(unfinished)
            ]
        return []

    return complete


def kinds(ctx: click.Context, parameter: click.Parameter, unfinished: str) -> list[CompletionItem]:
    """Completes KIND of `bitrl list` and `bitrl show`."""
    from bitrl.cli.kinds import PART, PLURALS

    words = [*(PART[kind] for kind in PLURALS), "run"] if ctx.info_name == "show" else [*PLURALS.values(), "runs"]
    return [CompletionItem(word) for word in words if word.startswith(unfinished)]


def names_of_kind(ctx: click.Context, parameter: click.Parameter, unfinished: str) -> list[CompletionItem]:
    """Completes NAME after KIND."""
    with contextlib.suppress(Exception):
        from bitrl.cli.kinds import parse_kind

        return components(parse_kind(str(ctx.params.get("kind"))))(ctx, parameter, unfinished)
    return []


def runs(ctx: click.Context, parameter: click.Parameter, unfinished: str) -> list[CompletionItem]:
    """Completes runs, by directories with a config.toml: those below runs/, or wherever the word leads to."""
    found: list[CompletionItem] = []
    with contextlib.suppress(OSError):
        found = [CompletionItem(str(path)) for path in _runs(unfinished or "runs/") if (path / "config.toml").is_file()]
        if unfinished and not found:  # `ru`, or a folder above runs
            found = [CompletionItem(f"{path}/") for path in _runs(unfinished)]
            below = [run for each in found for run in _runs(each.value) if (run / "config.toml").is_file()]
            found = [CompletionItem(str(path)) for path in below] or found
    return found


def models(ctx: click.Context, parameter: click.Parameter, unfinished: str) -> list[CompletionItem]:
    """Completes names of the catalogue, else files."""
    found: list[CompletionItem] = []
    with contextlib.suppress(Exception):
        from bitrl.plugins.backbones.catalogue.entries import ENTRIES

        found = [
            CompletionItem(name, help=entry.summary) for name, entry in ENTRIES.items() if name.startswith(unfinished)
        ]
    return found or [CompletionItem(unfinished, type="file")]


def assignments(ctx: click.Context, parameter: click.Parameter, unfinished: str) -> list[CompletionItem]:
    """Completes PART.OPTION= of `-o`, for the components that the line names so far, or the defaults."""
    with contextlib.suppress(Exception):
        from bitrl.core.config import COMPONENTS, RunOptions
        from bitrl.core.options import describe
        from bitrl.core.registry import registry

        chosen = {name: str(ctx.params.get(name) or "") for name in COMPONENTS}
        defaults = {"backbone": "bitnet", "serializer": "json", "algo": "ppo"}
        parts: list[tuple[str, type]] = [("run", RunOptions)]
        for part, kind in COMPONENTS.items():
            name = chosen[part] or defaults.get(part, "")
            parts += [(part, entry.record.options) for entry in registry().entries[kind] if entry.record.name == name]
        rows = [(f"{part}.{row.name}=", row.help) for part, options in parts for row in describe(options)]
        return [CompletionItem(path, help=text) for path, text in rows if path.startswith(unfinished)]
    return []


def _runs(beginning: str) -> Iterator[Path]:
    """Directories whose path begins with `beginning`, in order."""
    folder, _, name = beginning.rpartition("/")
    place = Path(folder or ("/" if beginning.startswith("/") else "."))
    for path in sorted(place.iterdir()):
        if path.name.startswith(name) and not path.name.startswith(".") and path.is_dir():
            yield path
