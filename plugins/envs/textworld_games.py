"""TextWorld cooking games: made from settings and a seed, once, and kept on disk.

A game is `game.json` in a folder of its own under the user's cache directory. TextWorld makes the same game from the
same seed only where Python's string hashes are the same, so they are made in a process of their own; a folder gets its
name when it is whole, so that two processes may want the same game at once.

Run as a module, it makes games: `python -m bitrl.plugins.envs.textworld_games DIRECTORY SETTINGS SEEDS` (JSON).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import attrs

from bitrl.core.cpus import available_cpus
from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.files import cache_home
from bitrl.core.runs.display import display
from bitrl.core.wording import pip

GAME = "game.json"

INSTALL = "install 'bitrl[textworld]'"

GAMES_A_PROCESS = 20
"""At most: a process takes two seconds to start."""

LOOK_SECONDS = 0.5
"""How often finished games are looked for."""

STALE_SECONDS = 3600
"""What a process has not written into for so long was left by one that was killed."""

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


@functools.cache
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
    return cache_home() / "bitrl" / "textworld"


def game_name(settings: Cooking, seed: int) -> str:
    """What sets a game apart from all others, as a folder's name."""
    skills = [
        name if value is True else f"{name}{value}"
        for name, value in attrs.asdict(settings).items()
        if value and name != "split"
    ]
    return f"{settings.split}-{'-'.join(skills)}-seed{seed}-textworld{require_textworld()}"


def games_of(settings: Cooking, seeds: Sequence[int]) -> list[Path]:
    """The files of the games with these seeds, made first (in about a second each, on all cores) where the cache lacks
    them, which is shown on stderr. Each is kept as soon as it is finished, so that a killed process has to make
    only the others again.

    Raises:
        UsageError: TextWorld is not installed. RunFailed: it could not make a game.
    """
    files = {seed: cache_directory() / game_name(settings, seed) / GAME for seed in seeds}
    missing = [seed for seed, file in files.items() if not file.exists()]
    if missing:
        with display(transient=True) as shown:
            shown.say(f"making {len(missing)} TextWorld games, once; they are kept in {cache_directory()}")
            _make_all(settings, missing, lambda done: shown.show("making TextWorld games", done, len(missing), ""))
    return [files[seed] for seed in seeds]


def _make_all(settings: Cooking, seeds: Sequence[int], tell: Callable[[int], None]) -> None:
    """Make games on all cores; `tell` is called with the number of those that are done."""
    directory, cores = cache_directory(), available_cpus()
    _remove_stale(directory)
    size = min(GAMES_A_PROCESS, -(-len(seeds) // cores))
    pieces = [_Piece(settings, seeds[i : i + size]) for i in range(0, len(seeds), size)]
    with ThreadPoolExecutor(cores) as pool:
        waiting: set[Future[None]] = {pool.submit(piece.make) for piece in pieces}
        try:
            while waiting:
                ended, waiting = wait(waiting, LOOK_SECONDS, "FIRST_COMPLETED")
                for piece in pieces:
                    piece.keep()
                tell(sum(len(piece.kept) for piece in pieces))
                for future in ended:
                    future.result()
        except BaseException:
            for future in waiting:
                future.cancel()
            for piece in pieces:
                piece.stop()
            raise


def _remove_stale(directory: Path) -> None:
    """Remove unfinished games of processes that were killed."""
    for folder in directory.glob(".unfinished-*") if directory.is_dir() else ():
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


class _Piece:
    """Games of one process.

    Attributes:
        kept: the seeds of those that have their place in the cache.
    """

    def __init__(self, settings: Cooking, seeds: Sequence[int]):
        self.settings, self.seeds = settings, seeds
        self.kept: set[int] = set()
        self._unfinished: Path | None = None
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def make(self) -> None:
        """Make them, in a process of their own.

        Raises:
            RunFailed: one could not be made; those before it are kept.
        """
        directory = cache_directory()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=directory))
        except OSError as error:
            raise RunFailed(f"{directory}: games cannot be saved there: {error.strerror}: set XDG_CACHE_HOME") from None
        try:
            code, errors = self._run(
                [
                    sys.executable, "-m", __name__,
                    str(self._unfinished), json.dumps(attrs.asdict(self.settings)), json.dumps([*self.seeds]),
                ]
            )  # fmt: skip
            self.keep()
            if code != 0 and not self._stopped:
                lines = errors.strip().splitlines() or [f"exit status {code}"]
                failed = next((seed for seed in self.seeds if seed not in self.kept), self.seeds[-1])
                name = game_name(self.settings, failed)
                raise RunFailed(f"TextWorld could not make the game {name}: {lines[-1]}")
        finally:
            shutil.rmtree(self._unfinished, ignore_errors=True)

    def keep(self) -> None:
        """Give the games that are finished their names."""
        for seed in self.seeds if self._unfinished is not None else ():
            if seed not in self.kept:
                folder = cache_directory() / game_name(self.settings, seed)
                if _keep(Path(str(self._unfinished)) / str(seed), folder):
                    self.kept.add(seed)

    def stop(self) -> None:
        """End the process, if it runs."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()

    def _run(self, command: Sequence[str]) -> tuple[int, str]:
        """Exit status and stderr. The process is not of our group: Ctrl-C is for us to handle."""
        if self._stopped:
            return 0, ""
        self._process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONSAFEPATH": "1"},  # not a textworld.py of the user's folder
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        if self._stopped:  # while the process was starting, when there was none to end
            self._process.kill()
        errors = self._process.communicate()[1]
        return self._process.returncode, errors


def _keep(made: Path, folder: Path) -> bool:
    """Give a game its name, if it is finished; whether it has its name: another thread may just have given it."""
    if not (made / GAME).exists():
        return (folder / GAME).exists()
    try:
        made.rename(folder)
    except OSError:
        if not (folder / GAME).exists():  # else another was first, with the same game
            raise RunFailed(f"{folder}: cannot be written: remove it and start again") from None
    return True


def _make(directory: Path, settings: dict[str, Any], seeds: Sequence[int]) -> None:
    """Make games in this process."""
    import textworld
    from textworld.challenges.tw_cooking import cooking

    parent = os.getppid()
    for seed in seeds:
        if os.getppid() != parent:  # whoever wanted the games was killed
            return
        options = textworld.GameOptions()
        options.seeds = seed
        game = cooking.make(settings | {"recipe_seed": 0}, options)
        (directory / str(seed)).mkdir()
        game.save(str(directory / str(seed) / f"{GAME}.unfinished"))
        (directory / str(seed) / f"{GAME}.unfinished").rename(directory / str(seed) / GAME)


if __name__ == "__main__":
    _make(Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3]))
