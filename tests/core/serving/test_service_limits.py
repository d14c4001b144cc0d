"""Rates, tokens, episodes and histograms, on clocks of their own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitrl.core.serving.metrics import Histogram
from bitrl.core.serving.open_episodes import REMEMBERED, OpenEpisodes
from bitrl.core.serving.refusals import Refused
from bitrl.core.serving.service_limits import MOST_CLIENTS, Rates, Token


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_second_of_requests_may_come_at_once_and_then_so_many_a_second() -> None:
    clock = Clock()
    rates = Rates(3, clock)
    assert [rates.allows("a") for _ in range(4)] == [True, True, True, False]
    assert rates.allows("b")
    clock.now += 0.4
    assert [rates.allows("a") for _ in range(2)] == [True, False]
    clock.now += 100
    assert [rates.allows("a") for _ in range(4)] == [True, True, True, False]


def test_the_rates_of_so_many_clients_are_known_and_no_more() -> None:
    rates = Rates(1, Clock())
    assert rates.allows("first")
    assert not rates.allows("first")
    for index in range(MOST_CLIENTS):
        rates.allows(str(index))
    assert len(rates._buckets) == MOST_CLIENTS
    assert rates.allows("first"), "it was not heard of for longest"


@pytest.mark.parametrize(
    ("header", "admitted"),
    [
        (b"Bearer correct-horse-battery", True),
        (b"bearer  correct-horse-battery ", True),
        (b"Bearer correct-horse-batter", False),
        (b"Bearer correct-horse-batteryy", False),
        (b"Bearer CORRECT-horse-battery", False),
        (b"Basic correct-horse-battery", False),
        (b"correct-horse-battery", False),
        (b"Bearer", False),
        (b"Bearer \xff", False),
        (b"", False),
    ],
)
def test_a_token_admits_who_knows_it_whole(header: bytes, admitted: bool) -> None:
    assert Token("correct-horse-battery").admits(header) is admitted


def agent(kind: str) -> Any:
    """Something that begins episodes, which go on with agents of its kind."""
    made = SimpleNamespace(kind=kind, history=3, observation_dtype=np.dtype("U1000"), observation_shape=())
    made.episode = lambda: SimpleNamespace(agent=made)
    made.remembers_alike = lambda other: other.kind == kind
    return made


def test_episodes_that_nobody_uses_end() -> None:
    clock = Clock()
    episodes = OpenEpisodes(2, 10, clock)
    first, second = episodes.begin(agent("x")), episodes.begin(agent("x"))
    with pytest.raises(Refused, match="2 episodes are open") as refused:
        episodes.begin(agent("x"))
    assert refused.value.status == 503
    clock.now += 6
    assert episodes.use(first) is episodes.use(first)
    clock.now += 6
    with pytest.raises(Refused, match="not used for 10 seconds") as unknown:
        episodes.use(second)
    assert unknown.value.status == 404
    third = episodes.begin(agent("x"))
    assert len({first, second, third}) == 3
    assert len(episodes) == 2
    episodes.end(first)
    with pytest.raises(Refused):
        episodes.end(first)
    clock.now += 11
    episodes.end_idle()
    assert len(episodes) == 0


def test_so_many_bytes_are_remembered() -> None:
    episodes, large = OpenEpisodes(10**6, 10, Clock()), agent("x")
    large.observation_shape = (5000,)
    most = REMEMBERED // (3 * 4 * 1000 * 5000)
    for _ in range(most):
        episodes.begin(large)
    with pytest.raises(Refused, match=f"{most} episodes are open"):
        episodes.begin(large)


def test_episodes_go_on_with_an_agent_that_remembers_alike_and_end_with_others() -> None:
    episodes = OpenEpisodes(9, 10, Clock())
    name = episodes.begin(agent("x"))
    alike = agent("x")
    episodes.follow(alike)
    assert episodes.use(name).agent is alike
    episodes.follow(agent("y"))
    assert len(episodes) == 0


@given(st.lists(st.sampled_from([0.5, 1, 1.5, 2, 3, 4, 5, 1e9]), max_size=30))
def test_a_histogram_counts_what_is_at_most_each_bound(values: list[float]) -> None:
    histogram = Histogram([1, 2, 4])
    for value in values:
        histogram.add(value)
    counts = [sum(value <= bound for value in values) for bound in (1, 2, 4, float("inf"))]
    lines = [*histogram.lines("x")]
    assert [int(line.split()[1]) for line in lines[:4]] == counts
    assert lines[3].startswith('x_bucket{le="+Inf"}')
    assert float(lines[4].split()[1]) == pytest.approx(sum(values))
    assert lines[5] == f"x_count {len(values)}"
