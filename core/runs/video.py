"""Videos: frames in, an mp4 or gif out. Knows nothing of environments; PyAV (the extra `video`) does the encoding, and
pygame (from the same extra) draws the frames of environments that render text.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bitrl.core.errors import UsageError
from bitrl.core.files import write_atomically
from bitrl.core.wording import pip, setting

if TYPE_CHECKING:
    import numpy as np

CODECS = {".mp4": ("libx264", "yuv420p"), ".gif": ("gif", "pal8")}
"""File suffix → codec and pixel format."""

MOST_GIF_FPS = 50
"""A gif counts hundredths of a second, and viewers treat a delay of one as an error."""

VIDEO = "install 'bitrl[video]'"

PAGE = (16, 80)
"""Lines and columns of a page of text."""

CELL = (26, 10)
"""Height and width of a character in pixels: letters of pygame's default font at 26 pixels are about that wide."""


def check(path: Path) -> None:
    """Refuse a file that could not be written, before any episode is played.

    Raises:
        UsageError: it is not an mp4 or gif, its folder does not exist, or PyAV is not installed.
    """
    if path.suffix.lower() not in CODECS:
        raise UsageError(f"{path}: {setting('video')} must end in {' or '.join(CODECS)}")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}: create it, or name another file")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder: name a file")
    _av()


def page(text: str) -> np.ndarray:
    """A text as a frame, uint8 [468, 820, 3]: dark on white, long lines wrapped, cut after 16 lines.

    Words keep their columns, so tables stay aligned.

    Raises:
        UsageError: pygame is not installed.
    """
    try:
        import pygame
    except ImportError:
        raise UsageError(f"a video of rendered text needs pygame, which is not installed: {pip(VIDEO)}") from None
    (rows, columns), (height, width) = PAGE, CELL
    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, columns) or [""]]
    if len(lines) > rows:
        lines = [*lines[: rows - 1], "…"]
    pygame.font.init()
    font = pygame.font.Font(None, height)
    surface = pygame.Surface(((columns + 2) * width, (rows + 2) * height))
    surface.fill("white")
    for row, line in enumerate(lines, 1):
        for word in re.finditer(r"\S+", line):
            shown = "".join(c if c.isprintable() else "?" for c in word[0])
            surface.blit(font.render(shown, True, "black"), ((word.start() + 1) * width, row * height))
    return pygame.surfarray.array3d(surface).swapaxes(0, 1)


class Video:
    """A video being recorded. It is encoded in memory, and written whole or not at all."""

    def __init__(self, path: Path, fps: float):
        """`path` has passed `check`; `fps` is frames per second."""
        self.path, self._suffix = path, path.suffix.lower()
        self._every = math.ceil(fps / MOST_GIF_FPS) if self._suffix == ".gif" else 1
        self._rate = Fraction(fps).limit_denominator(1000) / self._every
        self._bytes, self._frames = io.BytesIO(), 0
        self._container = _av().open(self._bytes, "w", format=self._suffix[1:])
        self._stream: Any = None
        self._graph: Any = None

    def add(self, frame: np.ndarray) -> None:
        """Add a frame, uint8 [height, width, 3]; all have one size."""
        index, self._frames = divmod(self._frames, self._every), self._frames + 1
        if index[1]:
            return
        height, width = (size // 2 * 2 for size in frame.shape[:2])  # yuv420p has a colour for each 2 x 2 pixels
        if self._stream is None:
            self._begin(width, height)
        picture = _av().VideoFrame.from_ndarray(frame[:height, :width].copy(), format="rgb24")
        picture.pts, picture.time_base = index[0], 1 / self._rate
        if self._graph is not None:
            self._graph.push(picture)
            picture = self._graph.pull()
        self._container.mux(self._stream.encode(picture))

    def save(self) -> None:
        """Write the file.

        Raises:
            RunFailed: the disk is full or the file cannot be written.
        """
        self._container.mux(self._stream.encode(None))
        self._container.close()
        write_atomically(self.path, self._bytes.getvalue(), f"choose another place with {setting('video')}")

    def _begin(self, width: int, height: int) -> None:
        codec, pixels = CODECS[self._suffix]
        self._stream = self._container.add_stream(codec, rate=self._rate)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, pixels
        if self._suffix == ".gif":  # each frame gets its own colour palette
            graph = self._graph = _av().filter.Graph()
            source = graph.add_buffer(width=width, height=height, format="rgb24", time_base=1 / self._rate)
            split, generate = graph.add("split"), graph.add("palettegen", "stats_mode=single")
            use, sink = graph.add("paletteuse", "new=1"), graph.add("buffersink")
            source.link_to(split)
            split.link_to(use, 0, 0)
            split.link_to(generate, 1, 0)
            generate.link_to(use, 0, 1)
            use.link_to(sink)
            graph.configure()


def _av() -> ModuleType:
    try:
        import av
        import av.filter
    except ImportError:
        raise UsageError(f"{setting('video')} needs PyAV, which is not installed: {pip(VIDEO)}") from None
    return av
