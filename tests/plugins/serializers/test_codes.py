"""The serializer codes: what it writes, what it learns from, and that a run keeps what it has learned."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import bitrl
from bitrl.core.environments.random_play import observations_of
from bitrl.core.interfaces import Field, ObservationSpec
from bitrl.plugins.backbones.files.tokenizer import pre_tokenizer
from bitrl.plugins.envs.smarthome import SmartHomeLight
from bitrl.plugins.serializers import CodesOptions
from bitrl.plugins.serializers.codes import Codes
from bitrl.testing import check_serializer

CARTPOLE = {"env": "CartPole-v1", "states": 300, "codes": 16}


def states_file(path, states):
    save_file({"states": np.asarray(states, np.float64)}, path)
    return str(path)


def test_worked_by_hand(tmp_path):
    """Four values of each number, a code for each, in their order; what lies between goes to the nearest."""
    values = [[x, v] for x in (0.0, 1.0, 5.0, 6.0) for v in (-3.0, -2.0, 2.0, 3.0)]
    file = states_file(tmp_path / "met.safetensors", values)
    write = bitrl.load_serializer("codes", env="MountainCar-v0", codes=4, tokens=2, states_file=file)
    assert write([0.0, -3.0]) == "0 0"
    assert write([6.0, 3.0]) == "3 3"
    assert write([4.4, -2.2]) == "2 1"
    assert write([np.nan, 1e30]) in ("1 3", "2 3")  # 3, the mean, is as far from 1 as from 5


def test_one_token_for_two_numbers_or_as_asked():
    for tokens, count in ((None, 2), (1, 1), (3, 3), (4, 4), (9, 4)):
        text = bitrl.load_serializer("codes", **CARTPOLE, tokens=tokens)([0.0] * 4)
        assert len(text.split()) == count
        assert all(0 <= int(code) < 16 for code in text.split())


def test_a_code_is_one_piece_to_the_starters_tokenizer():
    codes = [*range(1000)]
    pieces = [piece for piece, _ in pre_tokenizer("bitrl-2").pre_tokenize_str(" ".join(map(str, codes)))]
    assert pieces[::2] == list(map(str, codes))


def test_like_states_read_alike_and_unlike_ones_do_not():
    write = bitrl.load_serializer("codes", **CARTPOLE)
    assert write([0.01, 0.2, 0.01, -0.3]) == write([0.01, 0.2001, 0.01, -0.3])
    texts = write.batch(observations_of(bitrl.load_environment("CartPole-v1"), 200))
    assert len(set(texts)) > 50


def test_texts_come_first():
    write = bitrl.load_serializer("codes", env="SmartHome-Light", states=100, codes=8)
    observation, _ = SmartHomeLight().reset(seed=4)
    text, row = write(observation).rsplit(". ", 1)
    assert text == observation["request"]
    assert len(row.split()) == 7


@pytest.mark.parametrize("env", ["SmartHome-Light", "Pendulum-v1"])
def test_it_keeps_the_contract(env):
    check_serializer("codes", env=env, states=200, codes=16)


def test_what_is_refused(tmp_path):
    for spec, error in (
        (
            ObservationSpec("Taxi-v3", (Field("state", 0, 499),), discrete=500),
            "has 500 states, which are integers already",
        ),
        (ObservationSpec("BabyAI-GoTo-v0", texts=("mission",), grid=True), "is a grid, not a list of numbers"),
        (ObservationSpec("Cooking-v0", texts=("text",)), "has no numbers, only texts"),
        (ObservationSpec(), "name the environment"),
    ):
        with pytest.raises(bitrl.UsageError, match=error) as raised:
            Codes(CodesOptions(), spec)
        assert "\n" not in str(raised.value)
    with pytest.raises(bitrl.UsageError, match="environment CartPole-v1: expected an observation of 4 numbers, got 3"):
        bitrl.load_serializer("codes", **CARTPOLE)([1, 2, 3])
    with pytest.raises(bitrl.UsageError, match=r"serializer\.codes: expected an integer between 2 and 1000"):
        bitrl.load_serializer("codes", codes=1001)
    other = tmp_path / "other.safetensors"
    save_file({"weights": np.zeros(3)}, other)
    (tmp_path / "text").write_text("no states")
    for file, error in (
        (tmp_path / "none", "cannot be read: No such file"),
        (tmp_path / "text", "not a file of states: make one with bitrl eval"),
        (other, "not a file of states: make one with bitrl eval"),
        (states_file(tmp_path / "nan", [[np.nan] * 4]), "expected a table of finite numbers"),
        (states_file(tmp_path / "wide", np.zeros((5, 6))), "expected states of 4 numbers, as in CartPole-v1, got 6"),
    ):
        with pytest.raises(bitrl.UsageError, match=error):
            bitrl.load_serializer("codes", env="CartPole-v1", states_file=str(file))([0.0] * 4)


RUN = {
    "env": "CartPole-v1",
    "serializer": "codes",
    "steps": 128,
    "options": {
        **{"run.num_envs": 4, "run.eval_episodes": 1, "run.checkpoint_every": 1, "algo.rollout_steps": 64},
        **{"backbone.layers": 1, "backbone.threads": 1, "serializer.codes": 16},
    },
}


def test_a_run_keeps_its_codebook_and_a_resumed_one_goes_on_with_it(tmp_path):
    """The file that the codes were fitted to may be gone or another by then."""
    seen = observations_of(bitrl.load_environment("CartPole-v1"), 400)
    options = {**RUN["options"], "serializer.states_file": states_file(tmp_path / "met.safetensors", seen)}
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    summary = bitrl.run(out=straight, **{**RUN, "options": options})
    checkpoint = load_file(max((straight / "checkpoints").iterdir()))
    book = bitrl.load_serializer("codes", env="CartPole-v1", codes=16, states_file=options["serializer.states_file"])
    for name, array in book.state().items():
        np.testing.assert_array_equal(checkpoint[f"serializer.{name}"], array)

    bitrl.run(out=stopped, **{**RUN, "options": options})
    (stopped / "summary.json").unlink()
    max((stopped / "checkpoints").iterdir()).unlink()
    states_file(tmp_path / "met.safetensors", seen[:, ::-1])
    again = bitrl.resume(stopped)
    assert again["eval"] == summary["eval"]
    assert (stopped / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    (tmp_path / "met.safetensors").unlink()
    assert bitrl.evaluate(straight)["mean_return"] == summary["eval"]["mean_return"]


def test_a_states_file_that_is_missing_is_reported_before_anything_is_written(tmp_path):
    with pytest.raises(bitrl.UsageError, match="cannot be read"):
        bitrl.run(out=tmp_path / "run", **{**RUN, "options": {"serializer.states_file": str(tmp_path / "none")}})
    assert not (tmp_path / "run").exists()


def test_states_of_an_agent(tmp_path):
    """All that an evaluation meets: each episode's first and one a step; of a history, the newest."""
    for history in (1, 3):
        run = tmp_path / str(history)
        options = {"run.num_envs": 4, "run.history": history, "run.eval_episodes": 0, "algo.rollout_steps": 64}
        bitrl.run("CartPole-v1", backbone="mlp", steps=64, out=run, options=options)
        found = bitrl.evaluate(run, episodes=2, states=tmp_path / "met.safetensors")
        states = load_file(tmp_path / "met.safetensors")["states"]
        assert states.shape == (2 + sum(found["returns"]), 4)
        assert (np.abs(states) < 5).all()
        starts = np.flatnonzero((np.abs(states) <= 0.05).all(axis=1))[:2]  # where CartPole starts
        assert starts.tolist() == [0, 1]
    write = bitrl.load_serializer("codes", env="CartPole-v1", states_file=str(tmp_path / "met.safetensors"))
    assert len(write(states[5]).split()) == 2
    with pytest.raises(bitrl.UsageError, match="its folder does not exist"):
        bitrl.evaluate(run, states=tmp_path / "none" / "met.safetensors")


def test_it_is_fitted_to_the_environment_as_the_run_has_it(monkeypatch):
    """An option that moves all states far away moves the codebook with them."""
    import gymnasium

    from bitrl.core.config import resolve
    from bitrl.core.environments.environment import Environment
    from bitrl.core.registry import Entry, registry
    from bitrl.core.runs.parts import build

    @bitrl.options
    class ShiftedOptions:
        shift: float = bitrl.option(0.0, "added to every number")

    class Shifted(Environment):
        def make(self, render_mode=None):
            env = gymnasium.make("CartPole-v1")
            shift = self.options.shift
            space = gymnasium.spaces.Box(-1e6, 1e6, (4,), np.float64)
            return gymnasium.wrappers.TransformObservation(env, lambda seen: seen + np.float64(shift), space)

    from conformance_helpers import target

    record = bitrl.EnvironmentRecord(name="Shifted-v0", summary="", target=target(Shifted), options=ShiftedOptions)
    monkeypatch.setitem(
        registry().entries, "environment", [*registry().entries["environment"], Entry("shifted", record)]
    )
    values = {
        "run": {"env": "Shifted-v0", "serializer": "codes", "backbone": "bitnet"},
        "serializer": {"states": 64, "codes": 4},
        "backbone": {"layers": 1},
        "env": {"shift": 1000.0},
    }
    fitted = build(resolve(values)).reader.serializer
    assert (fitted.state()["mean"] > 990).all()
