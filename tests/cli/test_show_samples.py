"""`bitrl show serializer NAME --env E`: a state in that serializer's words, and its tokens."""

import json
import subprocess
import sys

import pytest

from bitrl.core.acting.loading import load_backbone


def test_without_an_environment_nothing_is_added(bitrl):
    assert "a state of" not in bitrl("show", "serializer", "compact").out
    assert "samples" not in json.loads(bitrl("show", "serializer", "compact", "--json").out)


def test_a_state_of_each_environment_and_its_tokens(bitrl):
    envs = ("--env", "CartPole-v1", "--env", "FrozenLake-v1", "--env", "SmartHome-Light")
    found = json.loads(bitrl("show", "serializer", "compact", *envs, "--json").out)
    assert [sample["env"] for sample in found["samples"]] == ["CartPole-v1", "FrozenLake-v1", "SmartHome-Light"]
    model = load_backbone("bitnet", threads=1)
    for sample in found["samples"]:
        assert sample["tokens"] == len(model.tokens([sample["written"]])[0])
        assert 0 < sample["mean_tokens"] <= sample["most_tokens"]
        assert sample["tokens"] <= sample["most_tokens"]
    assert found["samples"][0]["written"].startswith("x=")
    shown = bitrl("show", "serializer", "compact", *envs).out
    for sample in found["samples"]:
        assert f"\n  {sample['written']}\n" in shown
    assert f"a state of CartPole-v1 ({found['samples'][0]['tokens']} tokens for the starter model; mean " in shown
    assert bitrl("show", "serializer", "compact").out == shown[: shown.index("\na state of")]


def test_options_of_the_serializer(bitrl):
    show = ("show", "serializer", "template", "--env", "CartPole-v1")
    assert "\n  pole at 0." in bitrl(*show, "-o", "serializer.template=pole at {pole_angle:.3f}").out
    done = bitrl(*show, "-o", "serializer.template=pole at {pole}")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert 'there is no field "pole"' in done.err
    whole = bitrl("show", "serializer", "json", "--env", "MountainCar-v0", "-o", "serializer.decimals=0").out
    assert '{"position": ' in whole
    assert "." not in whole.splitlines()[-1]


def test_numbers_have_no_tokens(bitrl):
    [sample] = json.loads(bitrl("show", "serializer", "vector", "--env", "CartPole-v1", "--json").out)["samples"]
    assert (len(sample["written"]), sample["tokens"]) == (4, None)
    assert "a state of CartPole-v1 (4 numbers)\n" in bitrl("show", "serializer", "vector", "--env", "CartPole-v1").out


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("backbone", "mlp", "--env", "CartPole-v1"), "--env: expected KIND serializer, got"),
        (("serializer", "json", "-o", "serializer.decimals=2"), "-o changes how a state of an environment is written"),
        (("serializer", "json", "--env", "CartPole-v1", "-o", "algo.gamma=1"), "-o algo.…: only the serializer's own"),
        (("serializer", "json", "--env", "CartPole-v1", "-o", "serializer.decimal=1"), '"serializer.decimals"'),
        (("serializer", "json", "--env", "CartPol-v1"), 'did you mean "CartPole-v1"'),
        (
            ("serializer", "grid", "--env", "CartPole-v1"),
            "serializer grid is for MiniGrid environments, and CartPole-v1 is not one",
        ),
    ],
)
def test_mistakes(bitrl, args, error):
    done = bitrl("show", *args)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert error in done.err


def test_it_takes_no_torch():
    code = (
        "import sys; from bitrl.cli import main\n"
        "try: main(['show', 'serializer', 'bins', '--env', 'CartPole-v1'])\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "False\n"
    assert "a state of CartPole-v1" in done.stdout
