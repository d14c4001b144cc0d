"""Numbers that three decimals do not show are written in units of their own, chosen by random play and kept."""

import tomllib

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bitrl
from bitrl.core.config import resolve
from bitrl.core.environments.evidence import choose
from bitrl.core.errors import UsageError
from bitrl.core.interfaces import Field, ObservationSpec
from bitrl.plugins.backbones.number_ends import chunks, number_ends
from bitrl.plugins.serializers import ValuesOptions
from bitrl.plugins.serializers.unit_choice import unit_of
from bitrl.plugins.serializers.units import Unit, legend
from bitrl.plugins.serializers.values import Values, short

SCALES = np.array([1e-5, 1.0, 3e6, 1.0, 0.02])
CENTRES = np.array([0.0, 0.0, 0.0, 1013.0, 0.0])


class Instruments(gymnasium.Env):
    """Numbers of every size: a current in amperes, a length, a resistance in ohms, a pressure and a count."""

    action_space = gymnasium.spaces.Discrete(2)
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (5,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action):
        self.steps += 1
        return self.observe(), float(action), self.steps == 20, False, {}

    def observe(self):
        return CENTRES + SCALES * self.np_random.uniform(-1, 1, 5)


@pytest.fixture(scope="module", autouse=True)
def env():
    gymnasium.register("Instruments-v0", Instruments)
    yield "Instruments-v0"
    del gymnasium.registry["Instruments-v0"]


@pytest.fixture(scope="module")
def model():
    return bitrl.load_backbone("bitnet", layers=1)


def written(units, decimals=None):
    fields = tuple(Field(f"x{index}") for index in range(len(units)))
    return Values(ValuesOptions(units=tuple(units), decimals=decimals), ObservationSpec("Mine-v0", fields))


def test_numbers_in_units_and_a_legend_word_for_word():
    write = written(["e-5", "e0", "e6", "e0+1013", "e-2"])
    assert write([-1.234e-5, -0.5, 2.5e6, 1012.5, 0.0123]) == (
        '"x0": e-5, "x2": e6, "x3 - 1013": e0, "x4": e-2. -1.234 -0.500 2.500 -0.500 1.230'
    )
    assert written(["e0", "e0"])([0.5, 2]) == "0.500 2.000"
    assert written(["e-1-40", "e0"], decimals=1)([-39.5, 2]) == '"x0 + 40": e-1. 5.0 2.0'


def test_many_numbers_have_a_legend_every_eight():
    text = written(["e-5" if index % 9 == 0 else "e0" for index in range(40)])([0.00001] * 40)
    assert text.startswith('"x0": e-5. 1.000 0.000 0.000')
    cut = chunks(text, 8)
    assert [part.partition(". ")[0] for part in cut] == [f'"x{9 * index}": e-5' for index in range(5)]
    assert [len(number_ends(part)) for part in cut] == [8] * 5


def test_a_legend_names_consecutive_numbers_by_the_first_and_the_last():
    names = [*(f"x{index}" for index in range(9)), "arm.joints.0", "arm.joints.1", "speed"]
    units = [Unit(-3) if index not in (3, 5) else Unit() for index in range(12)]
    assert legend(names, units) == '"x0-x2 x4 x6-x8 arm.joints.0-arm.joints.1 speed": e-3.'


@given(st.lists(st.integers(-12, 12), min_size=1, max_size=128), st.sampled_from(["x{}", "part.{}", "name_{} (m/s)"]))
def test_a_legends_digits_are_not_taken_for_numbers(exponents, name):
    units = [Unit(exponent, 0.0 if index % 3 else 10.5 - index) for index, exponent in enumerate(exponents)]
    assert number_ends(legend([name.format(index) for index in range(len(units))], units)) == []


@pytest.mark.parametrize("unit", [Unit(), Unit(-5), Unit(3, 1013.25), Unit(-1, -40), Unit(0, 1e22), Unit(300, 1e-7)])
def test_a_unit_is_read_as_it_was_written(unit):
    assert Unit.parse(str(unit)) == unit
    assert ValuesOptions(units=(str(unit),)).units == (str(unit),)


@pytest.mark.parametrize("unit", ["", "5", "e", "e1.5", "1e5", "e5+", "e5*2", "e1000", "e301", "e-999"])
def test_a_unit_that_is_none_is_refused(unit):
    with pytest.raises(ValueError, match="such as e-5, e0 or e-1"):
        ValuesOptions(units=(unit,))


def test_another_count_of_units_than_numbers_is_refused():
    with pytest.raises(UsageError, match="each of the 10 numbers of Reacher-v5, got 2"):
        bitrl.load_serializer("values", env="Reacher-v5", units=["e0", "e1"])


@given(st.floats(-6, 6), st.floats(-1.0, 1.0), st.integers(0, 2**32 - 1))
def test_what_is_written_shows_size_and_spread_of_any_number(exponent, centre, seed):
    """Independent of how units are found: read back, a number is right to a hundredth of its spread."""
    values = 10**exponent * (centre + 0.2 * np.random.default_rng(seed).uniform(-1, 1, 200))
    unit = unit_of(values, Field("x0"))
    write = written([str(unit)])
    found = [float(write([value]).rsplit(" ", 1)[-1]) * 10.0**unit.exponent + unit.offset for value in values]
    assert np.abs(np.array(found) - values).max() < np.ptp(values) / 100


@pytest.mark.parametrize(
    ("values", "field", "unit"),
    [
        ([0.0, 0.0], Field("x"), "e0"), ([np.nan, np.inf], Field("x"), "e0"), ([1.5, -0.3], Field("x"), "e0"),
        ([1e-5] * 3, Field("x"), "e-5"), ([3e6, -3e6], Field("x"), "e7"), ([100.0, 101.0, 102.0], Field("x"), "e0+101"),
        ([20.001, 20.002, 20.003], Field("x"), "e-3+20.002"), ([1.0, 1.0 + 1e-7], Field("x"), "e0"),
        ([255, 0, 3], Field("x", 0, 255, decimals=0), "e0"), ([3, 90_000], Field("x", decimals=0), "e5"),
        ([70_001, 70_002, 70_003], Field("x", decimals=0), "e0+70002"), ([1e-320, 0], Field("x"), "e-300"),
        ([0.02, -0.05], Field("x", -0.07, 0.07), "e-1"), ([1.7e308, -1.7e308, 0], Field("x"), "e300"),
    ],
)  # fmt: skip
def test_units_of_single_numbers(values, field, unit):
    assert str(unit_of(np.array(values, np.float64), field)) == unit


@pytest.mark.parametrize("count", [2, 3, 17, 64, 128])
def test_no_number_costs_more_than_three_tokens_at_any_scale(count, model):
    random = np.random.default_rng(count)
    states = 10.0 ** random.uniform(-6, 6, count) * random.normal(random.uniform(-2, 2, count), 1.0, (100, count))
    write = written([str(unit_of(values, Field("x0"))) for values in states.T])
    own = sum(model.token_counts([f" {legend}" for legend in write.legends]))
    assert max(model.token_counts(write.batch(states))) - own <= 3 * count


@given(st.floats())
def test_whatever_its_size_a_number_is_at_most_three_tokens(model, number):
    text = short(number, 3)
    assert model.token_counts([text])[0] <= 3
    assert len(number_ends(text)) == 1
    if abs(number) < 1e300:
        assert abs(float(text) - number) <= max(0.0006, 0.006 * abs(number))


def test_a_run_chooses_units_by_random_play_and_says_so(env):
    config, (line, *_) = choose(resolve({"run": {"env": env}}), ("serializer",))
    assert config.serializer_options.units == ("e-5", "e0", "e7", "e0+1013", "e-2")
    assert line == "units of Instruments-v0 by 500 states of random play: x0 e-5, x2 e7, x3 e0+1013, x4 e-2"
    assert choose(config, ("serializer",)) == (config, ())


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "Blackjack-v1"])
def test_what_needs_no_units_gets_none(env_id):
    config, lines = choose(resolve({"run": {"env": env_id}}), ("serializer",))
    assert lines == ()
    assert set(config.serializer_options.units or ()) <= {"e0"}


def test_run_resume_export_and_act_write_the_same_texts(env, tmp_path, monkeypatch):
    run, options = tmp_path / "run", {"algo.rollout_steps": 32, "run.num_envs": 2, "run.eval_episodes": 1}
    options |= {"backbone.layers": 1, "backbone.readout": "set"}
    bitrl.run(env, steps=32, out=run, options=options)
    kept = tomllib.loads((run / "config.toml").read_text())["serializer"]["units"]
    assert kept == ["e-5", "e0", "e7", "e0+1013", "e-2"]
    monkeypatch.setattr("bitrl.plugins.serializers.unit_choice.observations_of", None)  # no more random play
    assert bitrl.resume(run, steps=64)["steps"] == 64
    bitrl.export(run, tmp_path / "agent.safetensors")
    agent = bitrl.load_agent(tmp_path / "agent.safetensors")
    state = CENTRES + SCALES / 2
    texts = agent.reader(np.array([state])).texts
    assert texts == ['"x0": e-5, "x2": e7, "x3 - 1013": e0, "x4": e-2. 0.500 0.500 0.150 0.500 1.000']
    assert agent.act(state) in (0, 1)


def test_a_wrapper_that_leaves_numbers_out_goes_without_units(env):
    class FewerNumbers(gymnasium.ObservationWrapper):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)

        def observation(self, observation):
            return observation[:3]

    options = {"layers": 1, "readout": "set"}
    whole = bitrl.FeatureObservation(gymnasium.make(env), backbone_options=options)
    assert whole.reader.serializer.legends
    fewer = bitrl.FeatureObservation(FewerNumbers(gymnasium.make(env)), backbone_options=options)
    assert fewer.reset(seed=0)[0].shape == (256,)
    assert not fewer.reader.serializer.legends
