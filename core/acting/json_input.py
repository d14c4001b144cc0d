"""JSON from anybody: what `bitrl act` and `bitrl serve` are sent, read strictly."""

from __future__ import annotations

import json
from typing import Any

from bitrl.core.errors import UsageError


def parse_json(data: bytes) -> Any:
    """The value that UTF-8 bytes hold.

    Raises:
        UsageError: they are not UTF-8, not JSON, or JSON with a key that is there twice, NaN, Infinity or half of a
            surrogate pair.
    """
    try:
        text = data.decode("utf-8-sig")
        found = json.loads(text, parse_constant=_refuse, object_pairs_hook=_each_once)
        if "\\u" in text:  # escapes can say what UTF-8 cannot, and what neither tokenizers nor files take
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except UnicodeDecodeError as error:
        raise UsageError(f"expected UTF-8: byte {error.start + 1} is not") from None
    except UnicodeEncodeError:
        raise UsageError("expected Unicode: a string holds half of a surrogate pair") from None
    except RecursionError:
        raise UsageError("expected JSON: nested too deeply") from None
    except ValueError as error:
        # Python bounds integers, since reading one takes the square of its digits, and says so to programmers.
        said = "an integer of too many digits" if "set_int_max_str_digits" in str(error) else error
        raise UsageError(f"expected JSON: {said}") from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name!r:.80} is there twice")
        found[name] = value
    return found
