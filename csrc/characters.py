"""Writes characters_table.h: python csrc/characters.py.

Letters are what \\p{L} matches in the tokenizers library, which cuts texts so; digits and other numerals are Python's,
by which numbers are found in texts.
"""

import unicodedata
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from tokenizers import Regex, pre_tokenizers

KINDS = {"Nd": "DIGIT", "Nl": "NUMERIC", "No": "NUMERIC"}
LINE = 124


def letters() -> set[int]:
    """The code points that are letters."""
    split = pre_tokenizers.Split(Regex(r"\p{L}"), behavior="removed")
    every = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    others = {piece for pieces, _ in split.pre_tokenize_str("".join(map(chr, every))) for piece in pieces}
    return {code for code in every if chr(code) not in others}


def runs() -> Iterator[tuple[int, str]]:
    """Where each run of characters of one kind begins, and the kind."""
    found = letters()

    def kind(code: int) -> str:
        return "LETTER" if code in found else KINDS.get(unicodedata.category(chr(code)), "OTHER")

    for name, codes in groupby(range(0x110000), kind):
        yield next(iter(codes)), name


def main() -> None:
    """Write the header beside this file."""
    words = [f"{name[0]}(0x{first:x})," for first, name in runs()]
    lines = ["/* Written by characters.py: where each run of characters of one kind begins. */"]
    lines += ["#define O(code) (OTHER << 21 | (code))", "#define L(code) ((uint32_t)LETTER << 21 | (code))"]
    lines += ["#define D(code) ((uint32_t)DIGIT << 21 | (code))", "#define N(code) ((uint32_t)NUMERIC << 21 | (code))"]
    lines += ["static const uint32_t runs[] = {"]
    line = "   "
    for word in words:
        if len(line) + 1 + len(word) > LINE:
            lines.append(line)
            line = "   "
        line += f" {word}"
    lines += [line, "};", "#undef O", "#undef L", "#undef D", "#undef N", ""]
    Path(__file__).with_name("characters_table.h").write_text("\n".join(lines), encoding="ascii")


if __name__ == "__main__":
    main()
