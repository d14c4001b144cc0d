"""Errors say what to set in the words of whoever reads them."""

import contextvars

import pytest

import bitrl
from bitrl.core.wording import command_line, resuming, setting


def in_python(function, *args, **named):
    """Call as a program does that never was on a command line."""
    return contextvars.Context().run(lambda: function(*args, **named))


@pytest.mark.parametrize(
    ("name", "values", "flag", "argument"),
    [
        ("force", (), "--force", "force"),
        ("critic_backbone", ("int8", "int4"), "--critic-backbone int8 or int4", 'critic_backbone="int8" or "int4"'),
        ("backbone.layers", (), "-o backbone.layers", "backbone.layers"),
        ("backbone.model", ("FILE",), "-o backbone.model=FILE", 'options={"backbone.model": FILE}'),
    ],
)
def test_a_setting_is_a_flag_or_an_argument(name, values, flag, argument):
    with command_line():
        assert setting(name, *values) == flag
    assert in_python(setting, name, *values) == argument


def test_how_to_go_on():
    assert in_python(resuming, "runs/a") == 'bitrl.resume("runs/a")'
    with command_line():
        assert resuming("runs/a") == "bitrl run --resume runs/a"


def test_python_is_told_no_flags(tmp_path):
    options = {"run.eval_episodes": 0, "algo.rollout_steps": 64, "run.num_envs": 2}
    bitrl.run(backbone="mlp", steps=0, out=tmp_path / "run", options=options)
    for wrong, message in [
        (
            {"out": tmp_path / "run"},
            f'continue it with bitrl.resume\\("{tmp_path / "run"}"\\), or replace it with force$',
        ),
        ({"backbone": "mlp", "serializer": "json"}, 'use serializer="vector", or backbone="'),
        ({"env": "MiniGrid-Empty-5x5-v0"}, 'use serializer="grid"$'),
    ]:
        with pytest.raises(bitrl.UsageError, match=message) as refused:
            in_python(bitrl.run, **wrong)
        assert "--" not in str(refused.value)
