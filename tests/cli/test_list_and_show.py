"""`bitrl list` and `bitrl show`: what they print, in both forms, also when plugins are broken."""

from __future__ import annotations

import json
import re
import sys

import pytest

BROKEN = "print('noise')\nraise RuntimeError('no luck')"
MISSPELT = """
import bitrl

@bitrl.hookimpl
def bitrl_serialisers():
    yield bitrl.SerializerRecord(name="x", summary="x", target="x:X")
"""
CONFLICTING = """
import bitrl

@bitrl.hookimpl
def bitrl_serializers():
    yield bitrl.SerializerRecord(name="json", summary="another", target="conflicting:X")
"""


def test_list_names_every_built_in_component_once(bitrl) -> None:
    done = bitrl("list")
    first_words = [line.split()[0] for line in done.out.splitlines() if line.startswith("  ")]
    for name in ("json", "natural", "compact", "vector", "bitnet", "mlp", "ppo", "CartPole-v1", "Acrobot-v1"):
        assert first_words.count(name) == 1


@pytest.mark.parametrize("kind", ["algorithms", "algorithm", "algo", "algos"])
def test_list_of_one_kind(bitrl, kind: str) -> None:
    assert set(json.loads(bitrl("list", kind, "--json").out)) == {"algorithms", "problems"}


def test_list_as_json(bitrl) -> None:
    found = json.loads(bitrl("list", "--json").out)
    kinds = [
        "serializers",
        "backbones",
        "algorithms",
        "environments",
        "loggers",
        "commands",
        "doctor-checks",
        "energy-meters",
    ]
    assert list(found) == [*kinds, "problems"]
    [bitnet] = [each for each in found["backbones"] if each["name"] == "bitnet"]
    assert (bitnet["package"], bitnet["accepts"]) == ("bitrl", ["text"])


def test_broken_plugins_are_told_and_break_nothing(installed) -> None:
    call = installed(broken=BROKEN, misspelt=MISSPELT, conflicting=CONFLICTING)
    said = call("list")
    assert said.code == 0
    assert "RuntimeError: no luck" in said.out
    assert "unknown hook bitrl_serialisers: did you mean bitrl_serializers?" in said.out
    assert 'serializer "json" is also provided by' in said.out
    problems = json.loads(call("list", "--json").out)["problems"]
    assert {problem["package"] for problem in problems} >= {"broken", "misspelt"}
    chosen = call("run", "--serializer", "json", "--backbone", "bitnet")
    assert chosen.code == 2
    assert '"bitrl:json"' in chosen.err
    assert '"conflicting:json"' in chosen.err


def test_show_a_component(bitrl) -> None:
    done = bitrl("show", "algo", "ppo")
    assert "bitrl.plugins.algos.ppo:PPO" in done.out
    assert "algo.clip_coef" in done.out
    assert "critic_backbone  yes" in done.out
    assert "a number above 0 (or linear:START:END, cosine:START:END); default: 0.1; standard: 0.2" in done.out


def test_show_and_the_json_list_name_a_components_aliases(bitrl) -> None:
    assert re.search(r"aliases +fp16$", bitrl("show", "backbone", "bf16").out, re.MULTILINE)
    assert json.loads(bitrl("show", "backbone", "bf16", "--json").out)["aliases"] == ["fp16"]
    listed = json.loads(bitrl("list", "backbones", "--json").out)["backbones"]
    assert {each["name"]: each.get("aliases") for each in listed if "aliases" in each} == {"bf16": ["fp16"]}


def test_show_as_json(bitrl) -> None:
    found = json.loads(bitrl("show", "algorithm", "ppo", "--json").out)
    [clip] = [option for option in found["options"] if option["name"] == "clip_coef"]
    expected = "a number above 0 (or linear:START:END, cosine:START:END)"
    assert (clip["default"], clip["presets"], clip["type"]) == (0.1, {"standard": 0.2}, expected)


def test_show_an_environment_with_what_it_sets(bitrl) -> None:
    shown = [line.split() for line in bitrl("show", "env", "MountainCar-v0").out.splitlines()]
    assert ["run.steps", "150000"] in shown
    assert ["algo.noise_hold", "20.0"] in shown
    found = json.loads(bitrl("show", "environment", "MountainCar-v0", "--json").out)
    assert (found["defaults"]["run.steps"], found["tuned"]["ppo"]["algo.noise_hold"]) == (150_000, 20)


def test_show_an_environment_with_its_observations_and_actions(bitrl) -> None:
    shown = bitrl("show", "env", "MountainCar-v0").out
    assert "  observation velocity  -0.07 to 0.07\n" in shown
    assert "  actions               push left | no push | push right\n" in shown
    assert "  episode               at most 200 steps\n" in shown
    found = json.loads(bitrl("show", "env", "SmartHome-Light", "--json").out)
    assert found["about"].startswith("Control a home's lamps, one level at a time")
    assert found["observation"]["request"] == "string"
    assert found["observation"]["hall_lamp"] == "0 to 0.4 klx"
    assert (len(found["actions"]), found["max_steps"]) == (9, 36)


@pytest.mark.parametrize(
    ("id", "observation", "actions", "steps"),
    [
        ("Pendulum-v1", "observation x2 -8 to 8", "actions 1 number from -2 to 2", "episode at most 200 steps"),
        (
            "HalfCheetah-v5",
            "observation torso_height -0.6 to 0.6 m",
            "actions 6 numbers from -1 to 1",
            "episode at most 1,000 steps",
        ),
        ("FrozenLake-v1", "observation state one of 16", "actions one of 4", "episode at most 100 steps"),
        ("BabyAI-GoToRedBall-v0", "observation mission string", "actions turn left | turn right | go forward", ""),
        (
            "TextWorld-Cooking",
            "observation state string",
            "actions one of the admissible commands of the state",
            "episode at most 50 steps",
        ),
    ],
)
def test_show_all_kinds_of_environments(bitrl, id: str, observation: str, actions: str, steps: str) -> None:
    if id == "TextWorld-Cooking":
        pytest.importorskip("textworld")
    shown = " ".join(bitrl("show", "env", id).out.split())
    assert all(words in shown for words in (observation, actions, steps))
    assert shown.count(actions.removeprefix("actions ")) == 1
    assert ("episode" in shown.split(" actions ")[-1].split("defaults")[0]) is bool(steps)


def test_show_an_environment_that_cannot_be_made_here(bitrl, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    done = bitrl("show", "env", "MontezumaRevenge")
    assert done.code == 0
    assert (
        "observations and actions\n  environment MontezumaRevenge needs ale-py: pip install 'bitrl[atari]'\n"
        in done.out
    )
    assert "env.max_steps" in done.out


def test_show_an_environment_that_fails(bitrl, monkeypatch) -> None:
    monkeypatch.setattr("bitrl.plugins.envs.smarthome.SmartHome.make", lambda self: 1 / 0)
    done = bitrl("show", "env", "SmartHome-Light")
    assert "observations and actions\n  cannot be made: ZeroDivisionError: division by zero\n" in done.out
    assert "run.steps" in done.out


def test_show_any_gymnasium_id(bitrl) -> None:
    assert "any Gymnasium id" in bitrl("show", "env", "Pendulum-v1").out
    assert "observations and actions" not in bitrl("show", "env", "gymnasium").out


def test_show_the_run(bitrl) -> None:
    options = {option["name"] for option in json.loads(bitrl("show", "run", "--json").out)["options"]}
    assert {"steps", "seed", "num_envs"} <= options


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (
            ("backbone",),
            "which backbone? bitrl show backbone NAME, where NAME is one of bitnet, int8, int4, bf16, fp32, ",
        ),
        (("backbone", "mpl"), 'unknown backbone "mpl": did you mean "mlp"'),
        (("env", "CartPol-v1"), 'did you mean "CartPole-v1"'),
        (("run", "fast"), "show run takes no name"),
        (("thing", "x"), 'unknown kind "thing"'),
    ],
)
def test_show_of_what_is_not_there(bitrl, args: tuple[str, ...], error: str) -> None:
    done = bitrl("show", *args)
    assert done.code == 2
    assert error in done.err
    assert done.err.count("\n") == 1
