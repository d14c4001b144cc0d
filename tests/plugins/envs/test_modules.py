"""`module:Id`: where the module is looked for, and what is said where there is none."""

from __future__ import annotations

import sys

import pytest

import bitrl
from bitrl.core.config import ANY_GYMNASIUM_ID, find_environment

MINE = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

class Mine(CartPoleEnv):
    pass

gymnasium.register("{id}", entry_point="{module}:Mine", max_episode_steps=7)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory; what is imported from it is forgotten again."""
    import gymnasium

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    known, modules = dict(gymnasium.registry), set(sys.modules)
    yield tmp_path
    gymnasium.registry.clear()
    gymnasium.registry.update(known)
    for name in set(sys.modules) - modules:
        if name.startswith("odd_"):
            del sys.modules[name]


def test_a_module_in_the_working_directory_is_found_last(place, capsys) -> None:
    (place / "odd_mine.py").write_text(MINE.format(module="odd_mine", id="Mine-v0"))
    (place / "json.py").write_text("raise SystemExit('shadowed')")
    env = bitrl.load_environment("odd_mine:Mine-v0").make()
    assert env.spec.max_episode_steps == 7
    assert sys.path[-1] == str(place)
    assert capsys.readouterr().err == f"environment odd_mine:Mine-v0: importing odd_mine from {place}\n"
    bitrl.load_environment("odd_mine:Mine-v0").make()
    assert sys.path.count(str(place)) == 1


TASK = """
import bitrl

class Twice(bitrl.PromptTask):
    def prompt(self, random):
        number = int(random.integers(1000))
        return f"Twice {number} is", 2 * number

    def score(self, answer, completion):
        return float(completion == str(answer))
"""


def test_all_environments_of_a_task_share_the_process_that_scores(place) -> None:
    (place / "odd_task.py").write_text(TASK)
    environment = bitrl.load_environment("odd_task:Twice")
    envs = [environment.make(), environment.make(), environment.make_for_evaluation()]
    try:
        assert len({env.unwrapped.task for env in envs}) == 1
        prompts = [env.reset(seed=0)[0] for env in envs]
        assert prompts[0] == prompts[1] != prompts[2]
        number = int(prompts[0].split()[1])
        assert [env.step(str(2 * number))[1] for env in envs[:2]] == [1, 1]
    finally:
        envs[0].close()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_fork_registered_under_a_known_name_is_reached(place) -> None:
    (place / "odd_fork.py").write_text(MINE.format(module="odd_fork", id="CartPole-v1"))
    assert find_environment("odd_fork:CartPole-v1").name == ANY_GYMNASIUM_ID
    env = bitrl.load_environment("odd_fork:CartPole-v1").make()
    assert (type(env.unwrapped).__module__, env.spec.max_episode_steps) == ("odd_fork", 7)


def test_a_name_behind_its_plugins_package_is_still_the_plugins() -> None:
    assert find_environment("bitrl:CartPole-v1").name == "CartPole-v1"


def test_an_installed_module_of_the_same_name_goes_first(place) -> None:
    (place / "gymnasium.py").write_text("raise SystemExit('shadowed')")
    bitrl.load_environment("gymnasium:CartPole-v1").make().close()
    assert str(place) not in sys.path


@pytest.mark.parametrize(
    ("source", "name", "error"),
    [
        (None, "odd_none:X-v0", "there is no module odd_none, neither installed nor in "),
        (None, "no such module:X-v0", 'expected MODULE:ID, got "no such module" as the name of a module'),
        (None, ":X-v0", 'expected MODULE:ID, got "" as the name of a module'),
        ("import sys; sys.exit(3)", "odd_broken:X-v0", "module odd_broken cannot be imported: SystemExit: 3"),
        ("1 +", "odd_broken:X-v0", "module odd_broken cannot be imported: SyntaxError"),
        ("import odd_other", "odd_broken:X-v0", "cannot be imported: ModuleNotFoundError: No module named 'odd_other'"),
        ("", "odd_broken:X-v0", "environment odd_broken:X-v0 cannot be made: "),
    ],
)
def test_what_cannot_be_imported_is_said(place, source, name, error) -> None:
    if source is not None:
        (place / "odd_broken.py").write_text(source)
    with pytest.raises(bitrl.UsageError) as raised:
        bitrl.load_environment(name).make()
    assert error in str(raised.value)


def test_python_in_safe_path_mode_is_told(place, monkeypatch) -> None:
    (place / "odd_mine.py").write_text("")
    real = sys.flags
    flags = type("Flags", (), {"safe_path": True, "__getattr__": lambda self, name: getattr(real, name)})()
    monkeypatch.setattr("bitrl.plugins.envs.modules.sys.flags", flags)
    with pytest.raises(bitrl.UsageError, match="imports nothing from the working directory"):
        bitrl.load_environment("odd_mine:X-v0").make()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("PandaReach-v3", ["pip install panda-gym", "panda_gym:PandaReach-v3"]),
        ("highway-fast-v0", ["pip install highway-env", "highway_env:highway-fast-v0"]),
        ("dm_control/acrobot-swingup-v0", ["pip install 'shimmy[dm-control]'"]),
        ("AntBulletEnv-v0", ["pip install pybullet_envs_gymnasium"]),
        ("procgen-coinrun-v0", ["pip install procgen", "images"]),
        ("FetchReach-v4", ["pip install gymnasium-robotics"]),
    ],
)
def test_an_id_of_a_known_package_says_what_to_install(name: str, words: list[str]) -> None:
    with pytest.raises(bitrl.UsageError) as raised:
        find_environment(name)
    assert all(word in str(raised.value) for word in words)


def test_an_atari_id_is_registered_by_ale_py_or_says_so(monkeypatch) -> None:
    import gymnasium

    known = {name: spec for name, spec in gymnasium.registry.items() if not name.startswith("ALE/")}
    monkeypatch.setattr(gymnasium, "registry", known)
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(bitrl.UsageError, match=r"ale_py.* images, .*MontezumaRevenge"):
        find_environment("ALE/Pong-v5")


def test_a_misspelt_id_of_an_installed_package_is_told_the_nearest_one() -> None:
    import minigrid  # noqa: F401 (registers them)

    with pytest.raises(bitrl.UsageError, match='did you mean "BabyAI-GoToRedBall-v0"'):
        find_environment("BabyAI-GoToRedBal-v0")
