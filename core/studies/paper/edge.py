"""The figures of the BitRL paper's Table III (arXiv 2604.24273): its own, of a Raspberry Pi 4 and a model of 2 billion
weights. Nothing here was measured with bitrl.
"""

from __future__ import annotations

import attrs

WHERE = "Raspberry Pi 4, 2B model"


@attrs.frozen
class EdgeFigures:
    """What an agent takes on the board: of one state, of an episode, and at most.

    Attributes:
        latency_ms: the median, without tokenising; tokenising_ms: that, where it is given.
    """

    latency_ms: float
    steps_per_second: float
    peak_mb: float
    joules_per_episode: float
    temperature_c: float
    tokenising_ms: float | None = None


BITRL = EdgeFigures(24.8, 40.3, 682, 5.8, 49, tokenising_ms=1.2)
FP16 = EdgeFigures(312, 3.2, 4250, 24.8, 68)
