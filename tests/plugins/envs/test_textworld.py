"""TextWorld cooking: games made once and kept, played as TextWorld's interpreter plays them, and told in few words.

The interpreter, which plays a compiled game and shares nothing with our rules but the game, is the oracle.
"""

import json
import re
import threading
import warnings
from importlib import metadata

import numpy as np
import pytest

import bitrl
from bitrl.core.runs.evaluate import evaluate
from bitrl.plugins.envs import textworld, textworld_games
from bitrl.plugins.envs.cooking import HELD_OUT
from bitrl.plugins.envs.samples import textworld_samples
from bitrl.plugins.envs.textworld import CookingGame, worthwhile
from bitrl.plugins.envs.textworld_games import Cooking, game_name, games_of
from bitrl.plugins.envs.textworld_rules import rules
from bitrl.plugins.envs.textworld_words import answer_to, asked_for, recipe_of

SETTINGS = Cooking()


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A cache with a game to learn in, used by every test, and one to be judged in. Making them takes seconds, most of
    it the start of a process.
    """
    pytest.importorskip("textworld", reason="needs the extra bitrl[textworld]")
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(cache))
        with pytest.MonkeyPatch.context() as one_process:
            one_process.setattr(textworld_games, "available_cpus", lambda: 1)
            file, _ = games_of(SETTINGS, [0, HELD_OUT])
        assert file == cache / "bitrl" / "textworld" / game_name(SETTINGS, 0) / "game.json"
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


@pytest.fixture(scope="module")
def interpreter(kept, tmp_path_factory):
    """The same game as TextWorld's interpreter plays it."""
    import textworld

    options = textworld.GameOptions()
    options.path, options.seeds = str(tmp_path_factory.mktemp("compiled") / "game.z8"), 0
    compiled = textworld.generator.compile_game(textworld.Game.load(str(kept)), options)
    wanted = textworld.EnvInfos(
        facts=True, description=True, inventory=True, admissible_commands=True, score=True, won=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Jericho's, that it has no scores of its own for this game
        player = textworld.start(compiled, wanted)
    yield player
    player.close()


def answer_in(feedback):
    """The first sentence of what the interpreter answers; nothing where it only describes the room."""
    words = " ".join(feedback.partition("\n>")[0].split())
    sentence = re.split(r"(?<=[.!?])\s|, revealing|Your score", words)[0].strip().rstrip(".,!")
    return "" if sentence.startswith("-=") else f"{sentence[:1].lower()}{sentence[1:]}."


def test_the_game_goes_as_the_interpreter_has_it(kept, interpreter):
    """Commands, answers, points and endings are those of the compiled game, and a thing is named in our text if and
    only if the interpreter's description, inventory or recipe names it.
    """
    env = CookingGame(SETTINGS, [0], max_steps=40, walkthrough=True)
    steps = told = won = 0
    for episode in range(12):
        rng = np.random.default_rng(episode)
        (text, info), theirs, done, score = env.reset(seed=episode), interpreter.reset(), False, 0
        things = [info.name for info in theirs.game.infos.values() if info.name and info.type not in ("r", "P")]
        while not done:
            commands = info["admissible_commands"]
            assert commands == sorted(filter(worthwhile, theirs.admissible_commands))
            command = next((c for c in info["policy_commands"] if c in commands), commands[0])
            if rng.random() < (0.1, 0.6, 1.0)[episode % 3]:
                command = commands[rng.integers(len(commands))]
            text, reward, done, truncated, info = env.step(commands.index(command))
            theirs, _, ended = interpreter.step(command)
            assert done == ended
            assert reward * env.rules.max_score == pytest.approx(theirs.score - score)
            assert not done or info["success"] == theirs.won
            if command != "examine cookbook":
                # What is said first to be missing may differ where several things are.
                cut_off = len("something still needs to be") if command == "prepare meal" else None
                refused = command == "prepare meal" and reward == 0
                answer = answer_in(theirs.feedback)
                assert env.answer[:cut_off] == answer[:cut_off] or (refused and "miss" in env.answer + answer)
            score, steps, won = theirs.score, steps + 1, won + bool(theirs.won)
            done = done or truncated
            if done:  # TextWorld then still describes the state before
                continue
            recipe, _, rest = text.partition("recipe: ")[2].partition(". ")
            place, carried = re.match(r"(.*?)\. ([^.]*) in hand\.", rest).groups()
            for mine, whole in ((place, theirs.description), (carried, theirs.inventory)):
                for thing in things:
                    alone = rf"(?<![\w-]){re.escape(thing)}(?![\w-])"
                    assert bool(re.search(alone, mine)) == bool(re.search(alone, whole)), (thing, text, whole)
                    told += bool(re.search(alone, mine))
            for state_word in ("sliced", "diced", "chopped", "roasted", "fried", "burned"):
                assert (state_word in carried) == (state_word in theirs.inventory)
            assert recipe in ("not read", "sliced roasted carrot, diced roasted yellow bell pepper")
    assert steps > 200
    assert told > 1000
    assert won >= 2


def test_the_walkthrough_goes_on_from_the_state_that_the_game_is_in(kept):
    """Also after the meal is prepared, for which TextWorld has a rule for every number of ingredients."""
    env = CookingGame(SETTINGS, [0], walkthrough=True)
    for _ in walk(env):
        assert frozenset(env._progress.state.facts) == env.facts
    assert env.answer == "you eat the meal."


def test_a_state_is_worked_out_once(kept):
    env = CookingGame(SETTINGS, [0])
    _, info = env.reset(seed=0)
    there_and_back = [info["admissible_commands"].index("open fridge"), "close fridge"]
    known = rules(kept).situation.cache_info
    env.step(there_and_back[0])
    env.step(env.commands.index(there_and_back[1]))
    before = known()
    env.step(env.commands.index("open fridge"))
    assert known().misses == before.misses
    assert known().hits > before.hits


@pytest.mark.parametrize("seed", range(3))
def test_what_can_be_done_is_what_textworld_finds(kept, seed):
    """The oracle is TextWorld's own search for applicable actions."""
    from textworld.logic import State

    env, rng = CookingGame(SETTINGS, [0], max_steps=25), np.random.default_rng(seed)
    env.reset(seed=seed)
    kb, over = rules(kept).game.kb, False
    while not over:
        state = State(kb.logic, env.facts)
        found = rules(kept).named(state.all_applicable_actions(kb.rules.values(), kb.types.constants_mapping))
        effects = env.rules.situation(env.facts).effects
        assert list(effects) == sorted(found)
        for command, action in found.items():
            if effects[command].added or command != "prepare meal":  # which waits for the whole recipe
                assert (effects[command].added, effects[command].removed) == ({*action.added}, {*action.removed})
        _, _, won, truncated, _ = env.step(rng.integers(len(env.commands)))
        over = won or truncated


def test_same_seed_same_trajectory(kept):
    played = []
    for _ in range(2):
        env = CookingGame(SETTINGS, [0], walkthrough=True)
        played.append([(*step[:4], step[4]["admissible_commands"]) for step in walk(env, 3, mistakes=0.5)])
        env.close()
    assert played[0] == played[1]


def test_a_run_chooses_among_commands_and_is_judged_in_other_games(kept, tmp_path, monkeypatch):
    played = []
    monkeypatch.setattr(textworld, "games_of", lambda *asked: played.append(asked) or games_of(*asked))
    options = {
        "env.recipe": 2, "env.take": 2, "env.games": 1, "env.eval_games": 1, "env.max_steps": 6,
        "run.num_envs": 2, "run.eval_episodes": 2,
        "algo.rollout_steps": 16, "algo.minibatch_size": 8, "algo.epochs": 1,
    }  # fmt: skip
    summary = bitrl.run("TextWorld-Cooking", steps=32, options=options, out=tmp_path / "run")
    assert summary["serializer"] == "compact"
    assert summary["eval"]["success_rate"] in (0.0, 0.5, 1.0)
    learned, judged = (SETTINGS, range(1)), (SETTINGS, range(HELD_OUT, HELD_OUT + 1))
    assert played == [learned, learned, judged, judged]  # in each of two environments
    steps = []
    again = evaluate(tmp_path / "run", show=steps.append)
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


def test_a_game_can_be_chosen_and_must_be_there(kept):
    env = CookingGame(SETTINGS, [0])
    assert env.reset(options={"game": -1}) == env.reset(options={"game": 0})
    with pytest.raises(IndexError):
        env.reset(options={"game": 1})


def test_samples(kept):
    samples = textworld_samples([0], 30, seed=2)
    assert samples == textworld_samples([0], 30, seed=2)
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


def test_a_door_is_opened_and_walked_through():
    assert answer_to("open barn door", ()) == "you open the barn door."
    assert answer_to("go east", ()) == ""


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("take red potato from counter", True),
        ("take salt", True),
        ("take potato", False),  # another food than a red one
        ("take knife from table", False),
        ("slice red potato with knife", True),
        ("dice red potato with knife", False),
        ("cook red potato with stove", True),
        ("cook red potato with oven", False),
        ("cook salt with stove", False),
        ("drop red potato", None),
        ("prepare meal", None),
    ],
)
def test_what_a_recipe_asks_for(command, asked):
    assert asked_for(command, "sliced fried red potato, salt") is asked


def test_a_way_to_win_does_what_the_recipe_asks_for_and_nothing_that_it_does_not(kept):
    env = CookingGame(SETTINGS, [0], walkthrough=True)
    text, info = env.reset(seed=0)
    done, given = False, []
    while not done:
        command = "examine cookbook" if "not read" in text else info["policy_commands"][0]
        text, _, done, _, info = env.step(info["admissible_commands"].index(command))
        if asked_for(command, env.rules.recipe) is not None and "knife" not in command.split()[1]:
            given.append(asked_for(command, env.rules.recipe))
    assert given.count(True) == 6  # two foods, each taken, cut and cooked
    assert False not in given


def test_looking_around_is_no_command():
    assert [c for c in ("look", "inventory", "examine stove", "examine cookbook", "go east") if worthwhile(c)] == [
        "examine cookbook",
        "go east",
    ]


def test_without_textworld_one_line_says_what_to_install(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    textworld_games.require_textworld.cache_clear()
    with pytest.raises(bitrl.UsageError, match=r"^TextWorld is not installed: pip install 'bitrl\[textworld\]' .*$"):
        CookingGame(SETTINGS, [0])


def test_a_game_appears_whole_or_not_at_all(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(textworld_games, "require_textworld", lambda: "1.7.0")
    together = threading.Barrier(4)

    def make(piece, command):
        together.wait(timeout=30)  # all of them are at it at once
        for seed in (7, 8):
            folder = textworld_games.Path(command[3]) / str(seed)
            folder.mkdir()
            (folder / "game.json").write_text("x")
        return 0, ""

    monkeypatch.setattr(textworld_games._Piece, "_run", make)
    monkeypatch.setattr(textworld_games, "available_cpus", lambda: 1)
    found = []
    threads = [threading.Thread(target=lambda: found.append(games_of(SETTINGS, [7, 8]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    folder = tmp_path / "bitrl" / "textworld"
    names = [game_name(SETTINGS, seed) for seed in (7, 8)]
    assert found == [[folder / name / "game.json" for name in names]] * 4
    assert sorted(path.name for path in folder.iterdir()) == names

    monkeypatch.setattr(textworld_games._Piece, "_run", lambda piece, command: (1, "Trace\nOops: no room\n"))
    with pytest.raises(bitrl.RunFailed, match=r"could not make the game train-.*seed9-.*: Oops: no room$"):
        games_of(SETTINGS, [8, 9])
    assert sorted(path.name for path in folder.iterdir()) == names


def test_many_games_are_made_piece_by_piece_and_kept_as_they_are_done(monkeypatch, tmp_path):
    """What one process has made is there, although another failed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(textworld_games, "require_textworld", lambda: "1.7.0")
    monkeypatch.setattr(textworld_games, "GAMES_A_PROCESS", 2)
    monkeypatch.setattr(textworld_games, "available_cpus", lambda: 2)
    pieces = []

    def make(piece, command):
        seeds = json.loads(command[5])
        pieces.append(seeds)
        if 24 in seeds:
            return 1, "Oops: killed\n"
        for seed in seeds:
            folder = textworld_games.Path(command[3]) / str(seed)
            folder.mkdir()
            (folder / "game.json").write_text("x")
        return 0, ""

    monkeypatch.setattr(textworld_games._Piece, "_run", make)
    with pytest.raises(bitrl.RunFailed, match="seed24"):
        games_of(SETTINGS, range(20, 25))
    assert sorted(pieces) == [[20, 21], [22, 23], [24]]
    kept = sorted(path.name for path in (tmp_path / "bitrl" / "textworld").iterdir())
    assert kept == sorted(game_name(SETTINGS, seed) for seed in range(20, 24))


def test_making_games_is_shown_by_name_and_count_and_what_is_finished_is_kept_at_once(monkeypatch, tmp_path, capsys):
    """A process that is killed has lost the game it was at, and left nothing that is taken for one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(textworld_games, "require_textworld", lambda: "1.7.0")
    monkeypatch.setattr(textworld_games, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(textworld_games, "available_cpus", lambda: 1)
    cache = tmp_path / "bitrl" / "textworld"
    stale = cache / ".unfinished-left"
    stale.mkdir(parents=True)
    textworld_games.os.utime(stale, (0, 0))
    kept = threading.Event()

    def make(piece, command):
        folder = textworld_games.Path(command[3])
        (folder / "1").mkdir()
        (folder / "1" / "game.json").write_text("x")
        while not (cache / game_name(SETTINGS, 1)).exists():  # taken into the cache while the process is still at work
            kept.wait(0.01)
        (folder / "2").mkdir()
        (folder / "2" / "game.json.unfinished").write_text("half")
        return -9, ""

    monkeypatch.setattr(textworld_games._Piece, "_run", make)
    with pytest.raises(bitrl.RunFailed, match="seed2-"):
        games_of(SETTINGS, [1, 2])
    assert [path.name for path in cache.iterdir()] == [game_name(SETTINGS, 1)]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"making 2 TextWorld games, once; they are kept in {cache}"
    assert "making TextWorld games: 1 of 2" in lines


def test_a_game_that_another_thread_has_just_kept_is_not_the_one_that_failed(monkeypatch, tmp_path):
    """Who shows the progress keeps games, too, and may be between giving one its name and counting it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(textworld_games, "require_textworld", lambda: "1.7.0")

    def make(piece, command):
        game = textworld_games.cache_directory() / game_name(SETTINGS, 1) / "game.json"
        game.parent.mkdir()
        game.write_text("x")
        return -9, ""

    monkeypatch.setattr(textworld_games._Piece, "_run", make)
    with pytest.raises(bitrl.RunFailed, match="seed2-"):
        textworld_games._Piece(SETTINGS, [1, 2]).make()


def test_all_games_are_made_when_the_first_is_played(monkeypatch):
    asked = []

    def games(settings, seeds):
        asked.append(list(seeds))
        raise bitrl.RunFailed("enough")

    monkeypatch.setattr("bitrl.plugins.envs.textworld.games_of", games)
    env = CookingGame(SETTINGS, range(50))
    assert asked == []
    with pytest.raises(bitrl.RunFailed):
        env.reset(seed=0)
    assert asked == [list(range(50))]


def test_a_users_own_module_is_not_taken_for_textworld(kept, monkeypatch, tmp_path):
    (tmp_path / "textworld.py").write_text("raise SystemExit('another textworld')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (file,) = games_of(SETTINGS, [0])
    assert file.read_bytes() == kept.read_bytes()


def test_a_process_that_starts_while_all_are_stopped_is_ended(monkeypatch):
    piece, start = textworld_games._Piece(SETTINGS, [0]), textworld_games.subprocess.Popen

    def starting(*command, **options):
        piece.stop()
        return start(*command, **options)

    monkeypatch.setattr(textworld_games.subprocess, "Popen", starting)
    assert piece._run(["sleep", "3"]) == (-9, "")
