"""Alarms of quantised rollouts: when they speak, and that they do before a collapsing policy's reward falls."""

import re

import numpy as np
import pytest
from language_tasks import ShareOfLetters, begin, saved, tiny_backbone, tiny_file

from bitrl.plugins.algos.alarms import PATIENCE, Alarms

SOUND = {"ess": 1.0, "m2": 0.0, "sign_skew": 0.0}


def told(capsys: pytest.CaptureFixture[str]) -> list[tuple[int, str]]:
    """The steps and names of the alarms since the last call."""
    return [(int(step.replace(",", "")), name) for step, name in re.findall(
        r"warning: step ([\d,]+): .*? \((ess|m2|sign_skew)\): the reward may collapse", capsys.readouterr().err
    )]  # fmt: skip


@pytest.mark.parametrize(("name", "beyond"), [("ess", 0.6), ("m2", 0.06), ("sign_skew", 0.2), ("sign_skew", -0.2)])
def test_one_is_told_once_after_three_updates_in_a_row(name: str, beyond: float, capsys) -> None:
    alarms = Alarms()
    for step, value in enumerate(
        [beyond, beyond, SOUND[name], beyond, beyond, beyond, beyond, SOUND[name], *[beyond] * 5]
    ):
        alarms({**SOUND, name: value}, 1000 * step)
    assert told(capsys) == [(5000, name)]


def test_sound_rollouts_and_updates_without_diagnostics_are_silent(capsys) -> None:
    alarms = Alarms()
    for step in range(10):
        alarms({"ess": 0.71, "m2": 0.049, "sign_skew": -0.09} if step % 2 else {}, step)
    assert told(capsys) == []


def test_an_update_in_which_nothing_was_learned_breaks_no_row(capsys) -> None:
    alarms = Alarms()
    for step, metrics in enumerate([{"m2": 1.0}, {}, {"m2": 1.0}, {}, {"m2": 1.0}]):
        alarms(metrics, step)
    assert told(capsys) == [(4, "m2")]
