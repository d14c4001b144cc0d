"""Where the numbers of a text end. Knows how numbers and names are written; knows nothing of tokens."""

import re
from itertools import pairwise

_PARTS = re.compile(
    r"""
    "(?:[^"\\]|\\.){0,128}"\s{0,8}:             # a quoted key, whatever is in it (bounded: hostile text)
    | (?P<number>
        (?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?   # its sign does not matter to where it ends
        | (?i:null|nan|inf(?:inity)?)(?![\w=])  # what serializers write for what is not a finite number
      )
    | [^\W\d]\w*(?:[.-]\w+)*                    # a name, with the digits in it: joint_3, x1, arm-2
    """,
    re.VERBOSE,
)


def number_ends(text: str) -> list[int]:
    """The place after each number's last character, in order.

    A number may have a sign, decimals and an exponent; `nan`, `inf` and `null` stand for one. Digits of a name
    ("joint_3", "x1=") and whatever is in a quoted key do not count.
    """
    return [end for _, end in number_places(text)]


def number_places(text: str) -> list[tuple[int, int]]:
    """Each number's first character, after its sign, and the place after its last one."""
    return [match.span() for match in _PARTS.finditer(text) if match.lastgroup == "number"]


def chunks(text: str, count: int) -> list[str]:
    """A text cut after every `count` of its numbers; what follows the last number stays with it."""
    cuts = number_ends(text)[:-1][count - 1 :: count]
    return [text[start:end].lstrip() for start, end in pairwise([0, *cuts, len(text)])]
