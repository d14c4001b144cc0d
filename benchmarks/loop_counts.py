"""Counts the instructions of loops by what they need, from a disassembly of x86-64 or AArch64."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

Instruction = tuple[int, str, str]  # address, name, operands
Span = tuple[int, int]


def functions(code: Path, disassembler: str) -> dict[str, list[Instruction]]:
    """The instructions of each function of an object file."""
    command = [disassembler, "-d", "--no-show-raw-insn", str(code)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, list[Instruction]] = {}
    body: list[Instruction] = []
    for line in text.splitlines():
        if named := re.match(r"^[0-9a-f]+ <(.+)>:$", line):
            body = found.setdefault(named[1], [])
        elif read := re.match(r"^\s+([0-9a-f]+):\s+(\S+)\s*(.*)$", line):
            body.append((int(read[1], 16), read[2], read[3]))
    return found


def innermost(body: list[Instruction]) -> list[list[Instruction]]:
    """The loops of a function that have no loop within."""
    return [_between(body, span) for span, within in _loops(body) if not within]


def around(body: list[Instruction]) -> list[list[Instruction]]:
    """Of the loops with just one loop within, what they do besides."""
    return [
        [each for each in _between(body, span) if each not in _between(body, within[0])]
        for span, within in _loops(body)
        if len(within) == 1
    ]


def _loops(body: list[Instruction]) -> list[tuple[Span, list[Span]]]:
    """Loops from their first address to their last, each with those within."""
    spans = []
    for address, _, operands in body:
        target = re.match(r"^(?:[wx]\d+, (?:#\d+, )?)?([0-9a-f]+) <", operands)
        if target and body[0][0] <= int(target[1], 16) <= address:
            spans.append((int(target[1], 16), address))
    return [((a, b), [(c, d) for c, d in spans if (c, d) != (a, b) and a <= c and d <= b]) for a, b in spans]


def _between(body: list[Instruction], span: Span) -> list[Instruction]:
    return [each for each in body if span[0] <= each[0] <= span[1]]


def count(loop: list[Instruction], arm: bool) -> Counter[str]:
    """What a pass of a loop needs, by the names of `Loop`."""
    found: Counter[str] = Counter()
    for _, name, operands in loop:
        found["instructions"] += 1
        found.update(_arm(name, operands) if arm else _x86(name, operands))
    return found


def _x86(name: str, operands: str) -> Counter[str]:
    memory = "(" in operands
    moves = name.startswith(("mov", "vmov", "vextract"))
    needs: Counter[str] = Counter()
    if memory:
        needs["stores" if moves and re.search(r",[-0-9a-fx]*\([^)]*\)$", operands) else "loads"] += 1
    if "mm" not in operands or moves or (memory and "broadcast" in name):
        return needs  # registers are renamed, not moved, and loads can spread what they read
    needs["vectors"] += 1
    shared = "|vps[lrh]|vperm|vpmov|vinsert" if "zmm" in operands else ""  # shifts and permutations have the same pipes
    needs["multiplications"] += bool(re.match(r"v?p?mul|v?pmadd|vfmadd|vp?dp|vpsign|vpabs" + shared, name))
    return needs


def _arm(name: str, operands: str) -> Counter[str]:
    if re.match(r"ld[pr1]|ldur", name):
        return Counter(loads=2 if name == "ldp" else 1)
    if re.match(r"st[pr1]|stur", name):
        return Counter(stores=2 if name == "stp" else 1)
    if not re.search(r"\b[vqds]\d+\b", operands):
        return Counter()
    return Counter(
        vectors=1, multiplications=int(bool(re.match(r"[su]ml?[au]l|smull|[su]dot|fmla|ml[as]|f?mul", name)))
    )
