"""TextWorld cooking: games made once and kept, won by their walkthrough, and told in few words that are true."""

import re
import subprocess
import threading
from importlib import metadata

import numpy as np
import pytest

import bitrl
from bitrl.core.runner import evaluate_run
from bitrl.plugins.envs import textworld_games
from bitrl.plugins.envs.samples import textworld_samples
from bitrl.plugins.envs.textworld import CookingGame, answer_of, recipe_of, worthwhile
from bitrl.plugins.envs.textworld_games import Cooking, game, game_name

SETTINGS = Cooking()


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A cache with one game in it, used by every test: making one takes seconds."""
    pytest.importorskip("textworld", reason="needs the extra bitrl[textworld]")
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(cache))
        file = game(SETTINGS, 0)
        assert file == cache / "bitrl" / "textworld" / game_name(SETTINGS, 0) / "game.z8"
        yield file


def walk(env, seed=0, mistakes=0.0):
    """Play by the walkthrough, at random now and then; yields what each step gives, the reset first."""
    rng = np.random.default_rng(seed)
    text, info = env.reset(seed=seed)
    yield text, 0.0, False, False, info
    done = False
    while not done:
        commands = info["admissible_commands"]
        command = next((c for c in info["policy_commands"] if c in commands), commands[0])
        if rng.random() < mistakes or "not read" in text:
            command = "examine cookbook" if "not read" in text else commands[rng.integers(len(commands))]
        step = env.step(commands.index(command))
        text, info, done = step[0], step[4], step[2] or step[3]
        yield step


def test_the_walkthrough_wins(kept):
    steps = list(walk(CookingGame(SETTINGS, [0], walkthrough=True)))
    assert sum(step[1] for step in steps) == pytest.approx(1)
    assert steps[-1][2]
    assert steps[-1][4]["success"] is True
    assert all("success" not in step[4] for step in steps[:-1])


def test_the_text_says_what_textworld_says(kept):
    """A thing is named in our text if and only if TextWorld's description, inventory or recipe names it."""
    env = CookingGame(SETTINGS, [0], max_steps=40, walkthrough=True)
    told = 0
    for seed in range(4):
        for text, _, terminated, *_ in walk(env, seed, mistakes=0.6):
            if terminated:  # TextWorld then still describes the state before
                continue
            state = env.state
            recipe, _, rest = text.partition("recipe: ")[2].partition(". ")
            place, _, carried = rest.partition(". carrying ")
            carried = carried.partition(".")[0]
            things = [info.name for info in state.game.infos.values() if info.name and info.type not in ("r", "P")]
            for mine, theirs in ((place, state.description), (carried, state.inventory)):
                for thing in things:
                    alone = rf"(?<![\w-]){re.escape(thing)}(?![\w-])"
                    assert bool(re.search(alone, mine)) == bool(re.search(alone, theirs)), (thing, text, theirs)
                    told += bool(re.search(alone, mine))
            for state_word in ("sliced", "diced", "chopped", "roasted", "fried", "burned"):
                assert (state_word in carried) == (state_word in state.inventory)
            assert recipe in ("not read", "sliced roasted carrot, diced roasted yellow bell pepper")
    assert told > 400


def test_same_seed_same_trajectory(kept):
    played = []
    for _ in range(2):
        env = CookingGame(SETTINGS, [0], walkthrough=True)
        played.append([(*step[:4], step[4]["admissible_commands"]) for step in walk(env, 3, mistakes=0.5)])
        env.close()
    assert played[0] == played[1]


def test_a_run_chooses_among_commands_and_is_judged_in_other_games(kept, tmp_path):
    options = {
        "env.games": 1, "env.eval_games": 1, "env.max_steps": 6, "run.num_envs": 2, "run.eval_episodes": 2,
        "algo.rollout_steps": 16, "algo.minibatch_size": 8, "algo.epochs": 1,
    }  # fmt: skip
    summary = bitrl.run("TextWorld-Cooking", steps=32, options=options, out=tmp_path / "run")
    assert summary["serializer"] == "compact"
    assert summary["eval"]["success_rate"] in (0.0, 0.5, 1.0)
    assert len(list(kept.parent.parent.glob("train-*-seed100000-*"))) == 1
    steps = []
    again = evaluate_run(tmp_path / "run", show=steps.append)
    assert again["mean_return"] == summary["eval"]["mean_return"]
    assert steps[0].state.startswith("cook the recipe and eat the meal. recipe: not read. kitchen:")
    assert all(re.fullmatch(r"[a-z]+ [a-z ]+", step.action) for step in steps)


@pytest.mark.parametrize("serializer", ["vector", "bins"])
def test_serializers_of_numbers_say_that_there_are_none(kept, serializer):
    with pytest.raises(bitrl.UsageError, match=r"^environment TextWorld-Cooking has no numbers, only texts: use "):
        bitrl.load_serializer(serializer, env="TextWorld-Cooking")


def test_gymnasiums_checker_finds_nothing_wrong(kept):
    from gymnasium.utils.env_checker import check_env

    check_env(CookingGame(SETTINGS, [0]), skip_render_check=True)


def test_an_index_beyond_the_commands_does_nothing_and_time_runs_out(kept):
    env = CookingGame(SETTINGS, [0], max_steps=2)
    text, info = env.reset(seed=0)
    assert info["admissible_commands"] == sorted(info["admissible_commands"])
    again, reward, terminated, truncated, _ = env.step(99)
    assert (again, reward, terminated, truncated) == (f"{text} nothing happens.", 0.0, False, False)
    _, _, terminated, truncated, info = env.step(99)
    assert (terminated, truncated, info["success"]) == (False, True, False)


def test_samples(kept):
    samples = textworld_samples(1, 30, seed=2)
    assert samples == textworld_samples(1, 30, seed=2)
    assert len(samples) == 30
    for sample in samples:
        assert set(sample.admissible) <= set(sample.commands)
        assert sample.game == kept.parent.name
        assert ("not read" in sample.text) or "sliced roasted carrot" in sample.text


def test_a_recipe_in_the_words_of_a_state():
    cookbook = """You open the copy of "Cooking" and start reading:\n\nRecipe #1\n---------\nGather all.\n
Ingredients:\nblack pepper\n  red potato\n\nDirections:\nslice the red potato\n  fry the red potato\n  prepare meal\n
>        -= Kitchen =-0/1"""
    assert recipe_of(cookbook) == "black pepper, sliced fried red potato"


@pytest.mark.parametrize(
    ("feedback", "answer"),
    [
        ("\nYou take the red potato from the counter.\n\n\nYour score has just gone up by one point.\n\n>  -= Kitchen",
         "you take the red potato from the counter."),
        ("\nYou open the fridge, revealing an egg.\n\n\n>  -= Kitchen =-0/2", "you open the fridge."),
        ("\n-= Pantry =-\nYou find yourself in a pantry.\n\n>   -= Pantry =-0/3", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_answers_in_short(feedback, answer):
    assert answer_of(feedback) == answer


def test_looking_around_is_no_command():
    assert [c for c in ("look", "inventory", "examine stove", "examine cookbook", "go east") if worthwhile(c)] == [
        "examine cookbook",
        "go east",
    ]


def test_without_textworld_one_line_says_what_to_install(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(bitrl.UsageError, match=r"^TextWorld is not installed: pip install 'bitrl\[textworld\]' .*$"):
        CookingGame(SETTINGS, [0])


def test_a_game_appears_whole_or_not_at_all(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(textworld_games, "require_textworld", lambda: "1.7.0")
    together = threading.Barrier(4)

    def make(command, **_):
        together.wait(timeout=30)  # all of them are at it at once
        for name in ("game.json", "game.z8"):
            (textworld_games.Path(command[3]) / name).write_text("x")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", make)
    found = []
    threads = [threading.Thread(target=lambda: found.append(game(SETTINGS, 7))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    folder = tmp_path / "bitrl" / "textworld"
    assert found == [folder / game_name(SETTINGS, 7) / "game.z8"] * 4
    assert [path.name for path in folder.iterdir()] == [game_name(SETTINGS, 7)]

    monkeypatch.setattr(
        subprocess, "run", lambda c, **_: subprocess.CompletedProcess(c, 1, "", "Trace\nOops: no room\n")
    )
    with pytest.raises(bitrl.RunFailed, match=r"could not make the game train-.*seed8-.*: Oops: no room$"):
        game(SETTINGS, 8)
    assert [path.name for path in folder.iterdir()] == [game_name(SETTINGS, 7)]
