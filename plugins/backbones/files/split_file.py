"""GGUF files in several parts, as `llama-gguf-split` of llama.cpp writes them.

Part i of n is called NAME-0000i-of-0000n.gguf and says so in its keys `split.no` (from 0) and `split.count`; the first
holds the model's keys, and `split.tensors.count` says how many tensors all parts have together.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bitrl._engine import lib
from bitrl.plugins.backbones.files.gguf_handle import ModelFileError, key_of, opened

COUNT, NUMBER, TENSORS = "split.count", "split.no", "split.tensors.count"
MOST_PARTS = 4096
_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def parts_of(handle: Any, path: str) -> dict[str, Any]:
    """Every part of the split file that this one belongs to: path → handle, in order; none of a whole file.

    Raises ModelFileError when parts are missing or do not belong together.
    """
    count, number = key_of(handle, COUNT, path), key_of(handle, NUMBER, path)
    if not isinstance(count, int) or count < 2:
        return {}
    if count > MOST_PARTS or not isinstance(number, int) or not 0 <= number < count:
        raise ModelFileError(path, f"is damaged: it says it is part {number} (from 0) of {count}")
    named = _NAME.fullmatch(Path(path).name)
    if named is None or (int(named[2]), int(named[3])) != (number + 1, count):
        raise ModelFileError(
            path,
            f"is part {number + 1} of {count} of a split model, whose parts are found by their names: call it "
            f"NAME-{number + 1:05}-of-{count:05}.gguf, and the others likewise",
        )
    names = sibling_names(Path(path).name)
    missing = [name for name in names if not Path(path).with_name(name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelFileError(
            path, f"is part {number + 1} of {count} of a split model, and {missing[0]}{more} is not beside it: get it"
        )
    parts: dict[str, Any] = {}
    for i, name in enumerate(names):
        place = str(Path(path).with_name(name))
        parts[place] = handle if i == number else opened(place)
        said = key_of(parts[place], NUMBER, place), key_of(parts[place], COUNT, place)
        if said != (i, count):
            raise ModelFileError(
                place, f"does not belong beside {Path(path).name}: it says it is part {said[0]} (from 0) of {said[1]}"
            )
    _check_tensors(parts, path)
    return parts


def sibling_names(name: str) -> list[str]:
    """The names of all parts of the split file that a part is called by; the name alone if it is none's."""
    named = _NAME.fullmatch(name)
    if named is None or not 1 < int(named[3]) <= MOST_PARTS:
        return [name]
    return [f"{named[1]}-{i:05}-of-{named[3]}.gguf" for i in range(1, int(named[3]) + 1)]


def _check_tensors(parts: dict[str, Any], path: str) -> None:
    first, handle = next(iter(parts.items()))
    want = key_of(handle, TENSORS, first)
    found = sum(lib.bitrl_file_tensor_count(handle) for handle in parts.values())
    if isinstance(want, int) and want != found:
        raise ModelFileError(path, f"and its parts hold {found} tensors, not the {want} that they say: get them again")
