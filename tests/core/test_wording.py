"""Errors say what to set in the words of whoever reads them."""

import contextvars

import pytest

import bitrl
from bitrl.core.wording import command_line, elided, pip, program, resuming, setting


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
        ({"backbone": "mlp", "serializer": "json"}, 'use serializer="hash" or "vector", or backbone="'),
        ({"env": "MiniGrid-Empty-5x5-v0"}, 'use serializer="grid"$'),
    ]:
        with pytest.raises(bitrl.UsageError, match=message) as refused:
            in_python(bitrl.run, **wrong)
        assert "--" not in str(refused.value)


def script(folder, name="bitrl"):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return file


def test_the_program_is_named_as_a_shell_here_finds_it(tmp_path, monkeypatch) -> None:
    own = script(tmp_path / ".venv" / "bin")
    other = script(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    called = [".venv/bin/bitrl", str(own)]
    for path, expected in (
        ("/nowhere", ".venv/bin/bitrl"),
        (str(other.parent), ".venv/bin/bitrl"),
        (own.parent, "bitrl"),
    ):
        monkeypatch.setenv("PATH", str(path))
        for argv in called:
            monkeypatch.setattr("sys.argv", [argv, "run"])
            assert program() == expected
    monkeypatch.setenv("PATH", "/nowhere")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    monkeypatch.setattr("sys.argv", [str(own)])
    assert program() == str(own)


def test_the_program_called_as_a_module_is_named_as_that(monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["/site/bitrl/__main__.py", "run"])
    monkeypatch.setattr("sys.orig_argv", ["python3.11", "-m", "bitrl", "run"])
    assert program() == "python3.11 -m bitrl"


def test_pip_is_that_of_this_python(tmp_path, monkeypatch) -> None:
    assert in_python(pip, "install x") == "pip install x"  # in Python nobody knows the shell
    own = script(tmp_path / "bin", "pip")
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin" / "python"))
    monkeypatch.chdir(tmp_path)
    with command_line():
        monkeypatch.setenv("PATH", "/nowhere")
        assert pip("install x") == "bin/python -m pip install x"
        monkeypatch.setenv("PATH", str(own.parent))
        assert pip("install x") == "pip install x"


def test_a_resume_hint_quotes_a_directory(monkeypatch) -> None:
    with command_line():
        assert resuming("my runs/a") == "bitrl run --resume 'my runs/a'"


def test_long_values_are_elided_and_still_told_apart() -> None:
    assert elided((64, 64)) == "(64, 64)"
    assert elided("x" * 80) == "x" * 80
    one, other = elided("x" * 200), elided("x" * 199 + "y")
    assert one != other
    assert all(each.startswith("xxxx") and len(each) < 40 for each in (one, other))
