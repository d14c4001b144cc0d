"""Checks of what a run's checkpoint says, before anything is restored from it: its checksum shows no forgery."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from bitrl.core.acting.checkpoints import Checkpoint, DamagedCheckpoint
from bitrl.core.errors import BitrlError, RunFailed, cause
from bitrl.core.wording import setting

LEARNED = ("algorithm.", "serializer.")
"""What the names of arrays begin with that were learned."""


def check(checkpoint: Checkpoint) -> None:
    """Refuse what has parts missing, of the wrong kind, or numbers that were never learned.

    Raises:
        DamagedCheckpoint: the message names the part, what was expected and what came.
    """
    meta, arrays = checkpoint.meta, checkpoint.arrays
    _expect(meta, "updates", _is_count, "an integer")
    _expect(meta, "starts", lambda value: isinstance(value, list) and all(map(_is_start, value)), "a list of starts")
    if "metrics" in meta:  # since 0.2, as the next
        _expect(meta, "metrics", _is_coverage, "rows and their SHA-256")
    if "options" in meta:
        _expect(meta, "options", _is_options, "tables of options")
    names = ("observations", *(f"actions.{index}" for index in range(len(meta["starts"]))))
    if missing := [name for name in names if name not in arrays]:
        raise DamagedCheckpoint(f"{missing[0]} is missing")
    observations = arrays["observations"]
    if observations.ndim < 1 or len(observations) != len(meta["starts"]):
        raise DamagedCheckpoint(f"observations: expected {len(meta['starts'])}, got shape {list(observations.shape)}")
    for name, array in arrays.items():
        if name.startswith(LEARNED) and array.dtype.kind == "f":
            # A single number may be infinite: the best return before there was one.
            wrong = np.isnan(array) if array.size == 1 else ~np.isfinite(array)
            if wrong.any():
                raise DamagedCheckpoint(f"{name} holds {int(wrong.sum()):,} numbers that are NaN or infinite")


@contextmanager
def restoring(checkpoint: Checkpoint | None) -> Iterator[None]:
    """Within, what a component raises over a checkpoint's parts becomes a RunFailed with the file's name."""
    try:
        yield
    except (BitrlError, MemoryError):
        raise
    except Exception as error:
        if checkpoint is None:
            raise
        raise RunFailed(
            f"{checkpoint.path}: cannot be restored, since it does not hold what this run saves: {cause(error)[:200]}: "
            f"remove it to go on from the one before, or start the run again with {setting('force')}"
        ) from error


def check_restored(given: Mapping[str, np.ndarray], now: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError where a component that was given arrays has others: of another shape or dtype."""
    for name in given.keys() & now.keys():
        old, new = given[name], np.asarray(now[name])
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise ValueError(f"{name}: expected {new.dtype} {list(new.shape)}, got {old.dtype} {list(old.shape)}")


def _expect(meta: Mapping[str, Any], name: str, accepts: Callable[[Any], bool], words: str) -> None:
    if name not in meta:
        raise DamagedCheckpoint(f'"{name}" is missing')
    if not accepts(meta[name]):
        raise DamagedCheckpoint(f'"{name}": expected {words}, got {str(meta[name])[:60]!r}')


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_start(value: Any) -> bool:
    """As replay.py says how an episode began: by a seed, or by a generator's state."""
    if not isinstance(value, dict) or not {"seed", "generator"} <= value.keys():
        return False
    seed, generator, last = value["seed"], value["generator"], value.get("last_seed")
    known = _is_count(seed) if seed is not None else isinstance(generator, dict)
    return known and (last is None or _is_count(last))


def _is_coverage(value: Any) -> bool:
    return isinstance(value, dict) and _is_count(value.get("rows")) and isinstance(value.get("sha256", ""), str)


def _is_options(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(options, dict) for options in value.values())
