"""The picture of `bitrl model probe`: R² against block, a panel for each environment and serializer."""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bitrl.core.errors import UsageError
from bitrl.core.files import write_atomically
from bitrl.core.installing import to_install

if TYPE_CHECKING:
    from bitrl.plugins.backbones.tools.probe import Reading

COLOURS = {"mean": "#0072b2", "last": "#d55e00", "field": "#009e73"}  # told apart by colour-blind readers, too
LINES = {"uniform": "-", "random": "--"}
MOST_COLUMNS = 3


def check_picture(out: Path) -> None:
    """Whether a picture can be drawn into `out`. Raises UsageError saying why it cannot."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(f"--out needs matplotlib, which is not installed: {to_install('matplotlib')}")
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out must end in .png, got {out}")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise UsageError(f"--out {out}: {out.parent} is not a writable directory: name another")


def draw_picture(readings: Sequence[Reading], out: Path) -> None:
    """Draw the readings into a PNG file. Raises RunFailed when it cannot be written."""
    from matplotlib.figure import Figure  # without pyplot: it opens no window and keeps no state
    from matplotlib.ticker import MaxNLocator

    panels = list(dict.fromkeys((reading.env, reading.serializer) for reading in readings))
    columns = min(len(panels), MOST_COLUMNS)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    seen: dict[tuple[str, str], None] = {}
    for panel, axis in zip(panels, axes.flat, strict=False):
        axis.set_title(", ".join(panel), fontsize=10)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        for reading in (r for r in readings if (r.env, r.serializer) == panel):
            for pooling in dict.fromkeys(score.pooling for score in reading.scores):
                of_pooling = [score for score in reading.scores if score.pooling == pooling]
                seen[pooling, reading.states] = None
                axis.plot(
                    [score.block for score in of_pooling], [score.mean for score in of_pooling],
                    LINES[reading.states], color=COLOURS[pooling], marker="o", markersize=3,
                )  # fmt: skip
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    lowest = min((score.mean for reading in readings for score in reading.scores), default=0)
    axes.flat[0].set_ylim(max(lowest, 0) - 0.02, 1.02)  # below 0 a reading is of no use, however far
    for axis in axes[:, 0]:
        axis.set_ylabel("mean R² of the state variables")
    for place, axis in enumerate(axes.flat):
        if place + columns >= len(panels):
            axis.set_xlabel("after block")
            axis.tick_params(labelbottom=True)
    names = {"uniform": "uniform states", "random": "random policy"}
    handles = [
        axes.flat[0].plot([], [], LINES[states], color=COLOURS[pooling], label=f"{pooling}, {names[states]}")[0]
        for pooling, states in seen
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 2 * columns), fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_atomically(out, picture.getvalue())
