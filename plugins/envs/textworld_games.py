"""TextWorld cooking games: made from settings and a seed, once, and kept on disk.

A game is `game.json` in a folder of its own under the user's cache directory. TextWorld makes the same game from the
same seed only where Python's string hashes are the same, so they are made in a process of their own; a folder gets its
name when it is whole, so that two processes may want the same game at once.

Run as a module, it makes games: `python -m bitrl.plugins.envs.textworld_games DIRECTORY SETTINGS SEEDS` (JSON).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import attrs

from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.wording import pip

GAME = "game.json"

INSTALL = "install 'bitrl[textworld]'"

GAMES_A_PROCESS = 20
"""A process takes two seconds to start."""

Split = Literal["train", "valid", "test"]


@attrs.frozen(kw_only=True)
class Cooking:
    """Difficulty of the games. The defaults are those of the games that models are pretrained on.

    Attributes:
        recipe: ingredients in the recipe, 1 to 5.
        take: how many of them must be found; the others are carried from the start.
        cook, cut: whether ingredients must be fried, roasted or grilled, and chopped, sliced or diced.
        open: whether the fridge and doors are closed at first.
        go: rooms: 1, 6, 9 or 12.
        drop: whether no more can be carried than the recipe needs.
        split: which foods, and which ways to prepare them, a recipe may ask for; the three are disjoint.
    """

    recipe: int = 2
    take: int = 2
    cook: bool = True
    cut: bool = True
    open: bool = True
    go: int = 1
    drop: bool = False
    split: Split = "train"


def require_textworld() -> str:
    """The version of TextWorld, without importing it.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return metadata.version("textworld")
    except metadata.PackageNotFoundError:
        raise UsageError(
            f"TextWorld is not installed: {pip(INSTALL)} (it has wheels for Linux and macOS only)"
        ) from None


def cache_directory() -> Path:
    """Where games are kept: $XDG_CACHE_HOME/bitrl/textworld, or ~/.cache/bitrl/textworld."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "bitrl" / "textworld"


def game_name(settings: Cooking, seed: int) -> str:
    """What sets a game apart from all others, as a folder's name."""
    skills = [
        name if value is True else f"{name}{value}"
        for name, value in attrs.asdict(settings).items()
        if value and name != "split"
    ]
    return f"{settings.split}-{'-'.join(skills)}-seed{seed}-textworld{require_textworld()}"


def games_of(settings: Cooking, seeds: Sequence[int]) -> list[Path]:
    """The files of the games with these seeds, made first (in about a second each, on all cores) where the cache does
    not have them. Each is kept as soon as its piece is done, so that a killed process has to make only the others
    again.

    Raises:
        UsageError: TextWorld is not installed. RunFailed: it could not make a game.
    """
    files = {seed: cache_directory() / game_name(settings, seed) / GAME for seed in seeds}
    missing = [seed for seed, file in files.items() if not file.exists()]
    pieces = [missing[i : i + GAMES_A_PROCESS] for i in range(0, len(missing), GAMES_A_PROCESS)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = [pool.submit(_make_apart, settings, piece) for piece in pieces]
        try:
            for done, made in enumerate(waiting):
                if sys.stderr.isatty():
                    print(f"\rmaking games: {done * GAMES_A_PROCESS} of {len(missing)}", end="", file=sys.stderr)
                made.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            if missing and sys.stderr.isatty():
                print("\r\x1b[K", end="", file=sys.stderr)
    return [files[seed] for seed in seeds]


def _make_apart(settings: Cooking, seeds: Sequence[int]) -> None:
    directory = cache_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=directory))
    except OSError as error:
        raise RunFailed(f"{directory}: games cannot be saved there: {error.strerror}: set XDG_CACHE_HOME") from None
    try:
        made = subprocess.run(
            [sys.executable, "-m", __name__, str(unfinished), json.dumps(attrs.asdict(settings)), json.dumps(seeds)],
            env=os.environ | {"PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            errors="replace",
        )
        for seed in seeds:
            _keep(unfinished / str(seed), directory / game_name(settings, seed))
        if made.returncode != 0:
            lines = made.stderr.strip().splitlines() or [f"exit status {made.returncode}"]
            failed = next(seed for seed in seeds if not (directory / game_name(settings, seed) / GAME).exists())
            raise RunFailed(f"TextWorld could not make the game {game_name(settings, failed)}: {lines[-1]}")
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _keep(made: Path, folder: Path) -> None:
    """Give a game its name, if it was finished."""
    if not (made / GAME).exists():
        return
    try:
        made.rename(folder)
    except OSError:
        if not (folder / GAME).exists():  # else another process was first, with the same game
            raise RunFailed(f"{folder}: cannot be written: remove it and start again") from None


def _make(directory: Path, settings: dict[str, Any], seeds: Sequence[int]) -> None:
    """Make games in this process."""
    import textworld
    from textworld.challenges.tw_cooking import cooking

    for seed in seeds:
        options = textworld.GameOptions()
        options.seeds = seed
        game = cooking.make(settings | {"recipe_seed": 0}, options)
        (directory / str(seed)).mkdir()
        game.save(str(directory / str(seed) / f"{GAME}.unfinished"))
        (directory / str(seed) / f"{GAME}.unfinished").rename(directory / str(seed) / GAME)


if __name__ == "__main__":
    _make(Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3]))
