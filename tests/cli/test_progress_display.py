"""What the progress display computes from events, with a clock made up for the purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitrl.cli.output import table
from bitrl.core import events
from bitrl.core.runs.display import display, duration, show_count
from bitrl.core.runs.progress import TrainingProgress, progress_display
from bitrl.core.sampled_completions import SampledCompletion

RUN = Path("runs/x")
CONFIG = {"run": {"env": "E", "serializer": "s", "backbone": "b", "algo": "a", "seed": 0}}


def test_nothing_is_claimed_before_the_first_update() -> None:
    training = TrainingProgress()
    training.hear(events.RunStarted(RUN, CONFIG, 0, 1000), 10.0)
    training.hear(events.RolloutStepped(RUN, 50), 10.5)
    assert training.step == 50
    assert training.words() == ("– steps/s", "sampled return –", "– left")


def test_opening_line_names_the_critics_backbone_if_it_has_one(capsys) -> None:
    hybrid = {"run": {**CONFIG["run"], "critic_backbone": "c"}}
    with progress_display(quiet=False) as listener:
        listener(events.RunStarted(RUN, CONFIG, 0, 1000))
        listener(events.RunStarted(RUN, hybrid, 0, 1000))
    assert capsys.readouterr().err.splitlines() == [
        "E → s → b → a, seed 0, in runs/x",
        "E → s → b (critic: c) → a, seed 0, in runs/x",
    ]


def test_speed_includes_learning_and_time_left_follows() -> None:
    training = TrainingProgress()
    training.hear(events.RunStarted(RUN, CONFIG, 500, 1500), 10.0)
    training.hear(events.RolloutStepped(RUN, 600), 10.1)
    training.hear(events.Updated(RUN, 600, {"episode_return": 20.0}), 12.0)
    assert training.steps_per_second() == pytest.approx(50)  # 100 steps in 2 s: those before the resume do not count
    assert training.words() == ("50 steps/s", "sampled return 20.0", "0:18 left")


@pytest.mark.parametrize(
    ("returned", "shown"),
    [(0.87, "0.870"), (-84.81, "-84.8"), (0.0, "0.0"), (2.1e-5, "2.1e-05"), (8e30, "8e+30"), (-1.5e9, "-1.5e+09")],
)
def test_a_return_of_any_size_is_a_few_digits(returned: float, shown: str) -> None:
    training = TrainingProgress()
    training.hear(events.RunStarted(RUN, CONFIG, 0, 1000), 0.0)
    training.hear(events.Updated(RUN, 100, {"episode_return": returned}), 1.0)
    assert training.words()[1] == f"sampled return {shown}"


def test_speed_is_that_of_the_last_ten_updates() -> None:
    training = TrainingProgress()
    training.hear(events.RunStarted(RUN, CONFIG, 0, 10_000), 0.0)
    for update in range(1, 31):
        training.hear(events.Updated(RUN, 100 * update, {}), 50.0 + update)
    assert training.steps_per_second() == pytest.approx(100)


def test_a_last_rollout_that_goes_beyond_the_steps_asked_for_counts_as_the_whole() -> None:
    training = TrainingProgress()
    training.hear(events.RunStarted(RUN, CONFIG, 0, 1000), 0.0)
    training.hear(events.RolloutStepped(RUN, 1500), 1.0)
    assert (training.step, training.total) == (1500, 1500)
    training.hear(events.Updated(RUN, 2048, {}), 2.0)
    assert training.total == 2048


def test_return_stays_when_no_episode_ended() -> None:
    training = TrainingProgress()
    training.hear(events.RunStarted(RUN, CONFIG, 0, 100), 0.0)
    training.hear(events.Updated(RUN, 10, {"episode_return": 7.0}), 1.0)
    training.hear(events.Updated(RUN, 20, {"policy_loss": 0.1}), 2.0)
    assert training.mean_return == 7.0


def test_without_a_terminal_a_line_at_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_display(quiet=False) as listener:
        listener(events.RunStarted(RUN, CONFIG, 0, 1000))
        for step in range(1, 1001):
            listener(events.Updated(RUN, step, {}))
        for done in range(1, 101):
            listener(events.Evaluating(RUN, done, 100))
    captured = capsys.readouterr()
    first, *lines = captured.err.splitlines()
    assert first == "E → s → b → a, seed 0, in runs/x"
    assert [line.split(" of ")[0] for line in lines] == [f"training: {tenth * 100:,}" for tenth in range(1, 11)]
    assert captured.out == ""


@pytest.mark.parametrize("quiet", [True, False])
def test_damaged_checkpoint_is_told_even_when_quiet(capsys: pytest.CaptureFixture[str], quiet: bool) -> None:
    with progress_display(quiet) as listener:
        listener(events.CheckpointSkipped(RUN, RUN / "checkpoints/5", "its checksum does not match"))
    assert "runs/x/checkpoints/5 is damaged (its checksum does not match)" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0:00"), (59.6, "1:00"), (127, "2:07"), (3727, "1:02:07")])
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_table_aligns_columns() -> None:
    assert table([("a", "bb", "c c"), ("aaa", "b", "c")]) == "  a    bb  c c\n  aaa  b   c"
    assert table([]) == ""


def test_a_display_within_another_is_that_one_and_quiet_means_all_below_it(capsys) -> None:
    with display() as outer, display(transient=True) as inner:
        assert inner is outer
    with progress_display(quiet=True), display() as shown:
        shown.say("nobody asked")
        shown.show("making games", 1, 2, "")
    assert capsys.readouterr().err == ""
    with display() as shown:
        shown.show("making games", 37, 40, "")
        show_count(shown, "measuring: CartPole-v1", 4000, 4000)
    assert capsys.readouterr().err == "making games: 37 of 40\n"


def test_after_a_silence_a_count_is_said_with_what_is_under_way(capsys, monkeypatch) -> None:
    monkeypatch.setattr("bitrl.core.runs.display.QUIET_SECONDS", -1.0)
    with display() as shown:
        show_count(shown, "measuring: CartPole-v1 json (uniform)", 64, 4000)
    assert capsys.readouterr().err == "measuring: 64 of 4,000   CartPole-v1 json (uniform)\n"


def test_a_terminal_that_is_gone_stops_no_work(monkeypatch) -> None:
    with open("/dev/full", "w", encoding="utf-8") as stream:
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr("sys.stderr", stream)
        with display() as shown:
            shown.say("hello\x1b[2J")
            shown.show("training", 1, 2, "steps")
        stream.close = lambda: None  # type: ignore[method-assign]


def test_brackets_in_names_are_shown_as_they_are(monkeypatch, capsys) -> None:
    monkeypatch.setattr("bitrl.core.runs.display.on_terminal", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with display() as shown:
        show_count(shown, "[red]measuring[/b]: game[/x]", 1, 2)
    err = capsys.readouterr().err
    assert "[red]measuring[/b]" in err
    assert "game[/x]" in err


def test_foreign_names_cannot_move_the_cursor(capsys) -> None:
    with progress_display(quiet=False) as listener:
        listener(events.RunStarted(RUN, {"run": {**CONFIG["run"], "env": "E\x1b[2J"}}, 0, 1000))
    assert "\x1b" not in capsys.readouterr().err
    assert table([("a\x1b[31m", "b\nc")]) == "  a\\x1b[31m  b\\nc"


def completion(step: int, **timings: float) -> events.Updated:
    return events.Updated(RUN, step, {"episode_return": 0.25, "completion_tokens": 8.0}, timings)


def test_of_completions_reward_length_and_speed_of_generation_are_shown() -> None:
    training = TrainingProgress()
    training.hear(events.RunStarted(RUN, CONFIG, 0, 100, prompts=True), 0.0)
    assert (training.unit, training.words()) == ("completions", ("reward –", "length –", "– tokens/s", "– left"))
    training.hear(completion(10), 1.0)
    assert training.words() == ("reward 0.250", "length 8", "– tokens/s", "0:09 left")  # nothing was measured
    training.hear(completion(20, tokens=100, generation=0.5), 2.0)
    training.hear(completion(30, tokens=300, generation=1.5), 3.0)
    assert training.words() == ("reward 0.250", "length 8", "200 tokens/s", "0:07 left")


def test_a_sample_is_shown_at_first_and_then_at_each_twentieth(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_display(quiet=False) as listener:
        listener(events.RunStarted(RUN, CONFIG, 0, 1000, prompts=True))
        for step in range(1, 1001):
            listener(completion(step))
            listener(events.Sampled(RUN, step, SampledCompletion("Add 1 + 1 =", f"{step}\n[b]", 0.5)))
    lines = capsys.readouterr().err.splitlines()
    samples = [line for line in lines if line.startswith("step ")]
    assert samples[:2] == [
        "step 1, reward 0.5: Add 1 + 1 = → 1\\n[b]",
        "step 50, reward 0.5: Add 1 + 1 = → 50\\n[b]",
    ]
    assert len(samples) == 21
    [tenth] = [line for line in lines if line.startswith("training: 100 of 1,000 completions")]
    assert "   reward 0.250   length 8   – tokens/s   " in tenth
