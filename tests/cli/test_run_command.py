"""`bitrl run` and `bitrl eval`: precedence of settings, bad input, pure JSON, what is said at the end."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bitrl.cli.run import configure, report
from bitrl.core.errors import UsageError

PROGRAM = "from bitrl.cli import main; main()"


def settings(text: str = "", tmp_path: Path | None = None, *assignments: str, **flags: str):
    file = None
    if tmp_path is not None:
        file = tmp_path / "given.toml"
        file.write_text(text)
    return configure(file, assignments, {"backbone": "mlp", **flags})


def test_command_line_wins_over_file_over_environment_over_defaults(tmp_path: Path) -> None:
    assert settings().run.steps == 100_000
    assert settings(env="MountainCar-v0").run.steps == 150_000
    assert settings("[run]\nsteps = 7", tmp_path, env="MountainCar-v0").run.steps == 7
    assert settings("[run]\nsteps = 7", tmp_path, "run.steps=8", env="MountainCar-v0").run.steps == 8
    assert settings("[run]\nsteps = 7", tmp_path, env="MountainCar-v0", steps="9").run.steps == 9


def test_assignment_changes_one_option_and_leaves_the_others_of_the_file(tmp_path: Path) -> None:
    text = "[algo]\nepochs = 3\nclip_coef = 0.3"
    config = settings(text, tmp_path, "algo.clip_coef=0.4")
    assert (config.algo_options.epochs, config.algo_options.clip_coef) == (3, 0.4)


def test_critics_backbone_from_flag_and_file(tmp_path: Path) -> None:
    text = "[run]\ncritic_backbone = 'int4'\n[critic_backbone]\nlayers = 2"
    options = settings(text, tmp_path, "critic_backbone.pooling=last", backbone="bitnet").critic_backbone_options
    assert (options.layers, options.pooling) == (2, "last")
    config = settings(text, tmp_path, backbone="bf16", critic_backbone="bitnet")
    assert config.critic_backbone is not None
    assert (config.backbone.name, config.critic_backbone.name) == ("bf16", "bitnet")


FILE = """
[run]
backbone = "bitnet"
serializer = "compact"
[backbone]
layers = 2
bits = "1.6"
[serializer]
decimals = 2
"""


def test_a_part_that_is_swapped_keeps_the_files_options_that_it_has_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(FILE, tmp_path, backbone="int8", serializer="bins")
    assert (config.backbone_options.layers, config.serializer_options.bins) == (2, 199)
    said = capsys.readouterr().err
    assert said.endswith(
        "given.toml: ignored backbone.bits, serializer.decimals (options of components that were replaced)\n"
    )
    config = settings(FILE, tmp_path, backbone="int8")
    assert (config.backbone_options.layers, config.serializer_options.decimals) == (2, 2)
    capsys.readouterr()
    settings(FILE, tmp_path, backbone="bitnet")
    assert capsys.readouterr().err == ""
    # What is typed for the new part is looked at as ever, and so is a file whose parts stay.
    with pytest.raises(UsageError, match=r'unknown option "backbone\.bits"'):
        settings(FILE, tmp_path, "backbone.bits=2", backbone="int8")
    with pytest.raises(UsageError, match=r'unknown option "serializer\.decimal"'):
        settings(FILE.replace("decimals", "decimal"), tmp_path, backbone="int8")
    # And so is one that does not say whose options it holds.
    with pytest.raises(UsageError, match=r'unknown option "backbone\.layer"'):
        settings("[backbone]\nlayer = 2", tmp_path, backbone="int8")


def test_a_critic_that_reads_what_the_policy_reads_again_needs_no_options(tmp_path: Path) -> None:
    text = "[run]\ncritic_backbone = 'int4'\n[critic_backbone]\nlayers = 2"
    assert settings(text, tmp_path, backbone="bitnet", critic_backbone="none").critic_backbone is None


def test_last_of_two_assignments_counts() -> None:
    assert settings("", None, "algo.epochs=3", "algo.epochs=5").algo_options.epochs == 5


def test_values_of_a_file_are_typed_and_those_of_the_command_line_are_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'algo\.epochs: expected an integer above 0, got "3"'):
        settings('[algo]\nepochs = "3"', tmp_path)
    assert settings('[algo]\nepochs = "3"', tmp_path, "algo.epochs=4").algo_options.epochs == 4


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ("--backbone bitnot", 'unknown backbone "bitnot": did you mean "bitnet"?'),
        ("--critic-backbone int9", 'unknown backbone "int9": did you mean "int8"'),
        ("--critic-backbone mlp", 'critic backbone "mlp" accepts vector, but serializer "json"'),
        ("--critic-backbone int8 -o critic_backbone.layer=1", 'unknown option "critic_backbone.layer": did you mean'),
        ("--critic-backbone int8 -o critic_backbone.model=missing.gguf", "missing.gguf"),
        ("-o critic_backbone.layers=1", "critic_backbone.layers: no critic backbone is chosen"),
        ("--serializer jsno", 'unknown serializer "jsno": did you mean "json"?'),
        ("--num-envs 4", "No such option '--num-envs': set it by -o run.num_envs=… (see bitrl run --help)"),
        ("--learning-rate=1e-4", "No such option '--learning-rate': set it by -o algo.learning_rate=…"),
        ("--stps 5", "No such option '--stps'. Did you mean '--steps'?"),
        ("--algo pppo", 'unknown algorithm "pppo": did you mean "ppo"?'),
        ("--env CartPole-v7", 'unknown environment "CartPole-v7": did you mean "CartPole-v1"'),
        ("-o algo.clip_coeff=0.2", 'unknown option "algo.clip_coeff": did you mean "algo.clip_coef"'),
        (
            "-o algo.clip_coef=abc",
            'algo.clip_coef: expected a number above 0 (or linear:START:END, cosine:START:END), got "abc"',
        ),
        (
            "-o algo.clip_coef=-1",
            "algo.clip_coef: expected a number above 0 (or linear:START:END, cosine:START:END), got -1",
        ),
        (
            "-o algo.clip_coef=nan",
            'algo.clip_coef: expected a number above 0 (or linear:START:END, cosine:START:END), got "nan"',
        ),
        ("-o backbone.pooling=max", 'backbone.pooling: expected one of "mean", "last", "field" or none, got "max"'),
        ("--steps -1", "run.steps: expected an integer between 0 and 1,000,000,000,000, got -1"),
        ("--steps lots", 'run.steps: expected an integer between 0 and 1,000,000,000,000, got "lots"'),
        ("--seed 1.5", 'run.seed: expected an integer of at least 0, got "1.5"'),
        ("-o algo.clip_coef", '-o "algo.clip_coef": expected part.option=value'),
        ("-o clip_coef=1", '-o "clip_coef=1": expected part.option=value'),
        ("-o algorithm.epochs=1", 'unknown part "algorithm": did you mean "algo"?'),
        ("--backbone mlp --serializer json", 'serializer "json" emits text, but backbone "mlp" accepts vector'),
        ("--backbone bitnet --serializer vector", '"vector" emits vector, but backbone "bitnet" accepts text'),
        ("--config missing.toml", "missing.toml: cannot be read: No such file or directory"),
        ("--config not.toml", "not.toml: not a TOML file"),
        ("--config image.toml", "image.toml: not a TOML file"),
        ("--config part.toml", "part.toml: unknown section [algorithm]"),
        ("--config bare.toml", "bare.toml: steps is outside any section"),
        ("--resume missing", "missing: no such file or directory"),
        ("--out occupied", "occupied: is not empty and does not hold a run"),
        ("--out not.toml", "not.toml: is a file"),
        ("-o backbone.model=missing.gguf", "missing.gguf"),
        ("-o backbone.model=not.toml", "not.toml"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(bitrl, tmp_path, monkeypatch, args: str, error: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("not.toml").write_text("what is this?")
    Path("image.toml").write_bytes(b"\x89PNG\xff")
    Path("part.toml").write_text("[algorithm]\nepochs = 3")
    Path("bare.toml").write_text("steps = 3")
    Path("occupied").mkdir()
    Path("occupied/thesis.tex").write_text("do not delete")
    before = sorted(Path().rglob("*"))
    if args.startswith("--out"):
        args += " --backbone mlp --serializer vector"
    done = bitrl("run", *args.split())
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("Error: ")
    assert done.err.count("\n") == 1
    assert error in done.err
    assert sorted(Path().rglob("*")) == before


def test_run_says_how_it_did_and_what_to_do_next(bitrl, quick_run, tmp_path) -> None:
    done = bitrl(*quick_run)
    assert done.code == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert f"CartPole-v1: mean return {summary['eval']['mean_return']:.1f} ± " in done.out
    assert "over 2 episodes" in done.out
    assert f"bitrl eval {tmp_path / 'run'} --seed 1" in done.out
    assert f"{tmp_path / 'run'}/metrics.jsonl" in done.out
    assert "128 of 128 steps" in done.err
    assert re.search(r"[\d,]+ steps/s   sampled return [\d.–]+   0:00 left", done.err)


def test_run_says_which_evaluation_while_training_was_the_best(bitrl, quick_run, tmp_path) -> None:
    done = bitrl(*quick_run, "-o", "run.eval_every=50", "-o", "run.eval_every_episodes=2")
    best = json.loads((tmp_path / "run/summary.json").read_text())["best_while_training"]
    said = f"best mean return while training {best['mean_return']:.1f} (greedy actions), at step {best['step']}"
    assert said in done.out
    [advised] = [line.split() for line in done.out.splitlines() if line.endswith("--best")]
    again = bitrl(*advised[1:], "--json")
    assert json.loads(again.out)["step"] == best["step"]


def test_the_advice_works(bitrl, quick_run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = bitrl(*quick_run).out
    advised = [line.partition("bitrl ")[2].split() for line in said.splitlines() if "  bitrl " in line]
    assert [words[0] for words in advised] == ["eval", "run"]
    for words in advised:
        assert bitrl(*words).code == 0


def test_quiet_prints_the_result_alone(bitrl, quick_run) -> None:
    done = bitrl(*quick_run, "--quiet")
    assert done.err == ""
    assert len(done.out.splitlines()) == 3


def test_json_is_the_summary_and_nothing_else(bitrl, quick_run, tmp_path) -> None:
    done = bitrl(*quick_run, "--json")
    assert done.err == ""
    assert json.loads(done.out) == json.loads((tmp_path / "run/summary.json").read_text())


def test_eval_of_a_run_is_its_evaluation_again(bitrl, quick_run, tmp_path) -> None:
    summary = json.loads(bitrl(*quick_run, "--json").out)
    found = json.loads(bitrl("eval", tmp_path / "run", "--json").out)
    assert {key: found[key] for key in ("episodes", "mean_return", "std_return")} == summary["eval"]
    other = json.loads(bitrl("eval", tmp_path / "run", "--json", "--episodes", 3, "--seed", 5).out)
    assert (other["episodes"], other["seed"], len(other["returns"])) == (3, 5, 3)
    said = bitrl("eval", tmp_path / "run")
    assert said.out == (
        f"CartPole-v1: mean return {found['mean_return']:.1f} ± {found['std_return']:.1f} "
        "(standard deviation, greedy actions) over 2 episodes (step 128, seed 0)\n"
    )


def test_existing_run_is_refused_without_force(bitrl, quick_run, tmp_path) -> None:
    first = bitrl(*quick_run)
    kept = (tmp_path / "run/summary.json").read_bytes()
    refused = bitrl(*quick_run)
    assert (first.code, refused.code) == (0, 2)
    assert "already holds a run" in refused.err
    assert "--resume" in refused.err
    assert "--force" in refused.err
    assert (tmp_path / "run/summary.json").read_bytes() == kept
    assert bitrl(*quick_run, "--force", "--seed", "1").code == 0
    assert json.loads((tmp_path / "run/summary.json").read_text())["seed"] == 1


def test_resume_takes_no_settings(bitrl, tmp_path) -> None:
    done = bitrl("run", "--resume", tmp_path, "--steps", "5", "-o", "algo.epochs=3", "--force")
    assert done.code == 2
    assert "leave out -o, --force" in done.err


def test_resume_of_a_complete_run_gives_its_summary(bitrl, quick_run, tmp_path) -> None:
    summary = bitrl(*quick_run, "--json").out
    assert bitrl("run", "--resume", tmp_path / "run", "--json").out == summary


def test_more_steps_train_a_finished_run_on(bitrl, quick_run, tmp_path) -> None:
    assert bitrl(*quick_run, "--quiet").code == 0
    done = bitrl("run", "--resume", tmp_path / "run", "--steps", "256", "--json")
    assert (done.code, json.loads(done.out)["steps"]) == (0, 256)
    for steps, error in (("128", "has already trained for 256 steps: ask for more"), ("1e99", "run.steps: expected")):
        refused = bitrl("run", "--resume", tmp_path / "run", "--steps", steps)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert error in refused.err


def test_runs_are_listed_with_what_differs(bitrl, quick_run, tmp_path) -> None:
    assert bitrl(*quick_run, "--quiet").code == 0
    other = [*quick_run, "--quiet", "--seed", "3", "-o", "algo.gamma=0.98"]
    other[other.index("--out") + 1] = str(tmp_path / "other")
    assert bitrl(*other).code == 0
    head, first, second = bitrl("list", "runs", tmp_path).out.splitlines()
    assert head.split("  ")[1].strip() == "run"
    assert first.endswith("seed=3 algo.gamma=0.98")
    assert second.endswith("seed=0 algo.gamma=0.99")
    assert "finished  128 of 128" in first
    runs = json.loads(bitrl("list", "runs", tmp_path, "--json").out)["runs"]
    assert [each["differs"]["run.seed"] for each in runs] == [3, 0]
    (tmp_path / "empty").mkdir()
    assert "holds no runs" in bitrl("list", "runs", tmp_path / "empty").out
    for args, error in ((("runs", "nowhere"), "is not a directory"), (("loggers", "x"), "only runs are listed by")):
        refused = bitrl("list", *args)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert error in refused.err


def test_returns_below_one_are_told_apart_in_a_list(bitrl, quick_run, tmp_path) -> None:
    """Rewards of completions are at most 1: 0.979 is not 1.0, which would be all of them right."""
    assert bitrl(*quick_run, "--quiet").code == 0
    summary = tmp_path / "run" / "summary.json"
    facts = json.loads(summary.read_text())
    facts["eval"] |= {"mean_return": 0.979, "std_return": 0.055}
    summary.write_text(json.dumps(facts))
    assert "0.979 ± 0.055" in bitrl("list", "runs", tmp_path).out


NOISY = """
import atexit, os, subprocess, sys
import bitrl
from bitrl.plugins.envs.gymnasium import GymnasiumEnvironment

class Noisy(GymnasiumEnvironment):
    def __init__(self, options, id):
        super().__init__(options, "CartPole-v1")

    def make(self, render_mode=None):
        print("from Python")
        os.write(1, b"from C\\n")
        subprocess.run([sys.executable, "-c", "print('from a child')"])
        atexit.register(print, "at exit")
        return super().make(render_mode)

@bitrl.hookimpl
def bitrl_environments():
    yield bitrl.EnvironmentRecord(name="Noisy-v0", summary="prints", target="noisy:Noisy")
"""


def test_what_an_environment_prints_does_not_reach_the_json(installed, quick_run) -> None:
    done = installed(noisy=NOISY)(*quick_run, "--env", "Noisy-v0", "--json")
    assert json.loads(done.out)["env"] == "Noisy-v0"
    for noise in ("from Python", "from C", "from a child", "at exit"):
        assert noise in done.err


def test_interrupted_run_says_how_to_go_on(bitrl, quick_run, tmp_path) -> None:
    command = [sys.executable, "-c", PROGRAM, *quick_run, "--steps", "20000"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert program.stderr is not None
    assert "CartPole-v1 → vector → mlp → ppo" in program.stderr.readline()
    assert " of 20,000 steps" in program.stderr.readline()
    program.send_signal(signal.SIGINT)
    out, err = program.communicate()
    assert program.returncode == 130
    assert out == ""
    assert f"continue with: bitrl run --resume {tmp_path / 'run'}" in err.splitlines()[-1]


def test_live_display_is_on_the_terminal_and_the_result_on_stdout(quick_run) -> None:
    terminal, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(terminal, 4096):
                shown.extend(chunk)
        except OSError:  # Linux says so when the other side is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-c", PROGRAM, *quick_run]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment)
    os.close(theirs)
    reader.join(timeout=30)
    os.close(terminal)
    assert done.returncode == 0
    assert done.stdout.startswith("CartPole-v1: mean return")
    assert "\x1b" not in done.stdout
    display = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.decode())
    for word in ("training", "128/128", "steps/s", "return", "0:00 left", "evaluation", "2/2 episodes"):
        assert word in display


def test_report_without_evaluation() -> None:
    summary = {
        "run": "runs/a b",
        "env": "X-v0",
        "serializer": "json",
        "seed": 3,
        "steps": 0,
        "train_seconds": 0.0,
        "steps_per_second": 0.0,
        "peak_rss_mb": 10.0,
        "eval": {"episodes": 0, "mean_return": None, "std_return": None},
    }
    said = report(summary)
    assert "X-v0: not evaluated" in said
    assert "bitrl eval 'runs/a b' --seed 4" in said
    assert "--serializer compact" in said
