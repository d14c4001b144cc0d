"""TextWorld cooking games: made from settings and a seed, once, and kept on disk.

A game is `game.z8` and `game.json` in a folder of its own under the user's cache directory. TextWorld makes the same
game from the same seed only where Python's string hashes are the same, so each is made in a process of its own; the
folder gets its name when it is whole, so that two processes may want the same game at once.

Run as a module, it makes one game: `python -m bitrl.plugins.envs.textworld_games FOLDER SETTINGS` (SETTINGS is JSON).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Literal

import attrs

from bitrl.core.errors import RunFailed, UsageError

Split = Literal["train", "valid", "test"]


@attrs.frozen(kw_only=True)
class Cooking:
    """How hard the games are. The defaults are the difficulty that results are given for.

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
            "TextWorld is not installed: pip install 'bitrl[textworld]' (it has wheels for Linux and macOS only)"
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


def game(settings: Cooking, seed: int) -> Path:
    """The file of a game, made first (in about 5 s) if it is not in the cache.

    Raises:
        UsageError: TextWorld is not installed. RunFailed: it could not make the game.
    """
    name = game_name(settings, seed)
    folder = cache_directory() / name
    if not (folder / "game.z8").exists():
        _make_apart(folder, settings, seed)
    return folder / "game.z8"


def _make_apart(folder: Path, settings: Cooking, seed: int) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
    except OSError as error:
        raise RunFailed(f"{folder.parent}: games cannot be kept there: {error.strerror}: set XDG_CACHE_HOME") from None
    try:
        made = subprocess.run(
            [sys.executable, "-m", __name__, str(unfinished), json.dumps(attrs.asdict(settings) | {"seed": seed})],
            env=os.environ | {"PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            errors="replace",
        )
        if made.returncode != 0:
            lines = made.stderr.strip().splitlines() or [f"exit status {made.returncode}"]
            raise RunFailed(f"TextWorld could not make the game {folder.name}: {lines[-1]}")
        try:
            unfinished.rename(folder)
        except OSError:
            if not (folder / "game.z8").exists():  # else another process was first, with the same game
                raise RunFailed(f"{folder}: cannot be written: remove it and start again") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _make(folder: Path, settings: dict) -> None:
    """Make and compile one game in this process."""
    import textworld
    from textworld.challenges.tw_cooking import cooking

    options = textworld.GameOptions()
    options.seeds = settings.pop("seed")
    options.path = str(folder / "game.z8")
    world = cooking.make(settings | {"recipe_seed": 0}, options)
    textworld.generator.compile_game(world, options)


if __name__ == "__main__":
    _make(Path(sys.argv[1]), json.loads(sys.argv[2]))
