"""Checks of what a run's checkpoint says, before anything is restored from it: its checksum shows no forgery."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bitrl.core.acting.checkpoints import Checkpoint, DamagedCheckpoint
from bitrl.core.errors import BitrlError, RunFailed, cause
from bitrl.core.wording import setting


def check(checkpoint: Checkpoint) -> None:
    """Refuse what has parts missing or of the wrong kind. What components saved is theirs to check.

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
    if "evaluation_due" in meta:
        _expect(meta, "evaluation_due", lambda value: isinstance(value, bool), "true or false")
    names = ("observations", *(f"actions.{index}" for index in range(len(meta["starts"]))))
    if missing := [name for name in names if name not in arrays]:
        raise DamagedCheckpoint(f"{missing[0]} is missing")
    observations = arrays["observations"]
    if observations.ndim < 1 or len(observations) != len(meta["starts"]):
        raise DamagedCheckpoint(f"observations: expected {len(meta['starts'])}, got shape {list(observations.shape)}")


@contextmanager
def restoring(checkpoint: Checkpoint, who: str) -> Iterator[None]:
    """Within, what a component raises over a checkpoint's parts becomes a RunFailed that names both."""
    try:
        yield
    except (BitrlError, MemoryError):
        raise
    except Exception as error:
        raise RunFailed(
            f"{checkpoint.path}: cannot be restored by {who}: {cause(error)[:200]}: remove it to go on from the one "
            f"before, or start the run again with {setting('force')}"
        ) from error


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
