"""Writes docs/pictures/*.svg: what commands print, from running them.

python docs/tools/pictures.py

It takes some minutes, most of them for training on CartPole-v1. The commands run in a temporary folder, with a terminal
for their output; progress displays, which go to stderr, are left out.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURES = Path(__file__).parents[1] / "pictures"
WIDTH = 124
COMMANDS = {
    "run": "bitrl run --backbone bitnet --serializer json --out cartpole",
    "eval": "bitrl eval cartpole --episodes 5 --show",
    "probe": "bitrl model probe --env CartPole-v1 --serializer json",
}
LINES = 24
"""Of a longer output, its first half and its last half this long are shown."""


def output(command: str, folder: str) -> str:
    """What `command` prints on a terminal as wide as the pictures.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    main, side = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    words = [sys.executable, "-c", "from bitrl.cli import main; main()", *shlex.split(command)[1:]]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=side, stderr=errors)
        os.close(side)
        text = b""
        try:
            while piece := os.read(main, 65536):
                text += piece
        except OSError:  # so Linux says that the other end is closed
            pass
        os.close(main)
        if process.wait() != 0:
            errors.seek(0)
            raise subprocess.CalledProcessError(process.returncode, command, stderr=errors.read().decode())
    return text.decode().replace("\r\n", "\n").rstrip("\n")


def draw(name: str, command: str, text: str) -> None:
    """Write the picture of a command and what it printed."""
    lines = text.split("\n")
    if len(lines) > LINES:
        lines = [*lines[: LINES // 2], "…", *lines[-LINES // 2 :]]
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        console.print(Text(f"$ {command}", style="bold"))
        console.print(Text.from_ansi("\n".join(lines)))
        svg = console.export_svg(title=f"bitrl {name}", unique_id=name)
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # a picture asks nothing of another server
    lines = [line.rstrip() for line in svg.splitlines()]
    (PICTURES / f"{name}.svg").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Run the commands in their order: the second needs the run of the first."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, command in COMMANDS.items():
            draw(name, command, output(command, folder))


if __name__ == "__main__":
    main()
