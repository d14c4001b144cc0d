"""An agent's file may come from anywhere: what it says is checked before anything is made of it."""

import copy

import attrs
import numpy as np
import pytest

import bitrl
from bitrl.core.acting import agents, checkpoints
from bitrl.core.acting.checkpoints import Checkpoint
from bitrl.core.acting.states import identity_changes
from bitrl.core.errors import UsageError
from bitrl.core.options import parse
from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.ppo import PPO
from bitrl.testing import make_task
from bitrl.testing.small_environments import FactoredEnvironment

OPTIONS = {"run.num_envs": 2, "run.eval_episodes": 1, "algo.rollout_steps": 16, "algo.epochs": 1}


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    """An agent's file that needs no language model."""
    folder = tmp_path_factory.mktemp("agent")
    bitrl.run(backbone="mlp", steps=32, out=folder / "run", options=OPTIONS)
    bitrl.export(folder / "run", folder / "agent")
    return checkpoints.read(folder / "agent")


def refusal(agent, tmp_path, change):
    """What is said of the agent with facts or arrays changed."""
    meta, arrays = copy.deepcopy(dict(agent.meta)), dict(agent.arrays)
    change(meta, arrays)
    (tmp_path / "agent").write_bytes(checkpoints.as_bytes(Checkpoint(arrays, meta)))
    with pytest.raises(UsageError) as caught:
        bitrl.load_agent(tmp_path / "agent")
    said = str(caught.value)
    assert len(said) < 500
    assert "\n" not in said
    return said


FACTS = ["serializer", "backbone", "identity", "history", "history_tokens", "policy", "observation"]


@pytest.mark.parametrize("name", FACTS)
def test_a_missing_fact_is_named(agent, tmp_path, name):
    said = refusal(agent, tmp_path, lambda meta, arrays: meta.pop(name))
    assert f'agent: not a whole agent: "{name}" is missing: export it again' in said


@pytest.mark.parametrize("name", FACTS)
@pytest.mark.parametrize("value", [3.5, [], "x" * 10_000])
def test_a_fact_of_another_kind_is_named(agent, tmp_path, name, value):
    assert f'"{name}": expected ' in refusal(agent, tmp_path, lambda meta, arrays: meta.update({name: value}))


def set_field(name, value):
    return lambda meta, arrays: meta["observation"]["fields"][0].update({name: value})


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (set_field("decimals", 10**7), "\"decimals\": expected an integer between 0 and 17, or null, got '10000000'"),
        (set_field("decimals", -1), '"decimals": expected'),
        (set_field("low", float("nan")), '"low": expected a number or null'),
        (set_field("low", 10**400), '"low": expected a number or null'),
        (set_field("colour", 1), 'a field has "colour"'),
        (lambda meta, arrays: meta.update(history=10**7), '"history": expected an integer between 1 and 1000'),
        (lambda meta, arrays: meta["serializer"].pop("options"), '"serializer": expected a name and options'),
        (lambda meta, arrays: meta["observation"].update(discrete=0), '"discrete": expected'),
        (lambda meta, arrays: meta["observation"].pop("texts"), '"texts" is missing'),
    ],
)
def test_numbers_that_would_take_all_memory_and_nonsense(agent, tmp_path, change, error):
    assert error in refusal(agent, tmp_path, change)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["mean", "std", "0.weight", "1.bias"])
def test_weights_that_are_not_finite_are_refused(agent, tmp_path, name, bad):
    path = f"policy.network.{name}"

    def change(meta, arrays):
        arrays[path] = arrays[path].copy()
        arrays[path].flat[0] = bad

    assert f"{path} holds 1 numbers that are NaN or infinite" in refusal(agent, tmp_path, change)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda meta, arrays: arrays.pop("example"), "no example of an observation"),
        (lambda meta, arrays: arrays.update(example=np.float32(0)), "no example of an observation"),
        (lambda meta, arrays: arrays.update(example=np.zeros((1, 4), np.complex64)), "neither numbers nor texts"),
        (lambda meta, arrays: meta["serializer"].update(name="bins"), "writes texts, which it has no backbone to read"),
        (lambda meta, arrays: arrays.pop("policy.network.mean"), "policy.network.mean is missing"),
        (lambda meta, arrays: arrays.pop("policy.network.1.bias"), "policy.network.1: its shape does not fit"),
        (lambda meta, arrays: arrays.update({"policy.network.std": np.zeros(4, np.float32)}), "do not fit together"),
        (
            lambda meta, arrays: arrays.update({"policy.network.std": np.array(["a"] * 4)}),
            "network.std holds no numbers",
        ),
        (lambda meta, arrays: arrays.update({"policy.start": np.zeros(2, int)}), "policy.start: expected an integer"),
        (lambda meta, arrays: arrays.update({"policy.start": np.array(0.5)}), "policy.start: expected an integer"),
        (lambda meta, arrays: meta.update(history=3), "network takes 4 features, but its states have 12"),
        (lambda meta, arrays: meta["serializer"].update(name="codes"), "serializer cannot be restored (KeyError"),
    ],
)
def test_arrays_that_do_not_fit_are_named(agent, tmp_path, change, error):
    assert error in refusal(agent, tmp_path, change)


@pytest.mark.parametrize(
    ("low", "high"), [(np.zeros(3), np.ones(3)), (np.zeros(2), np.ones(3)), (np.zeros(2), np.ones(2, int))]
)
def test_bounds_that_do_not_fit_the_outputs_are_named(agent, tmp_path, low, high):
    def change(meta, arrays):
        meta["policy"] = "continuous"
        arrays.update({"policy.low": low, "policy.high": high})

    assert "its low, high and network do not fit together" in refusal(agent, tmp_path, change)


def test_keys_that_do_not_fit_the_queries_are_named(agent, tmp_path):
    def change(meta, arrays):
        meta["policy"] = "commanding"
        of_keys = {name.replace("network", "keys"): array for name, array in arrays.items() if "network" in name}
        of_keys |= {"policy.keys.2.weight": np.zeros((7, 64)), "policy.keys.2.bias": np.zeros(7)}
        arrays.update(of_keys)

    assert "network and policy.keys do not give equally many numbers" in refusal(agent, tmp_path, change)


def test_an_agent_that_chooses_commands_needs_some_to_choose_from(agent, tmp_path):
    def change(meta, arrays):
        meta["policy"] = "commanding"
        arrays.update({name.replace("network", "keys"): array for name, array in arrays.items() if "network" in name})

    assert "its example of an observation has no commands" in refusal(agent, tmp_path, change)


@pytest.mark.parametrize("weights", [[3e38], [3e38, -3e38]], ids=["infinite", "nan"])
def test_an_action_that_overflows_is_no_answer(agent, tmp_path, weights, recwarn):
    meta = {**agent.meta, "policy": "continuous"}
    arrays = {
        name: np.resize(weights, array.shape).astype(np.float32) if name.endswith("weight") else array
        for name, array in agent.arrays.items()
    }
    low, high = np.full(2, -np.inf, np.float32), np.full(2, np.inf, np.float32)
    arrays |= {"policy.low": low, "policy.high": high}
    (tmp_path / "agent").write_bytes(checkpoints.as_bytes(Checkpoint(arrays, meta)))
    with pytest.raises(UsageError, match="network gives numbers beyond float32 for this observation"):
        bitrl.load_agent(tmp_path / "agent").act([0.1, 0.2, 0.3, 0.4])
    assert not recwarn.list


def test_an_agent_that_is_whole_still_acts(agent, tmp_path):
    (tmp_path / "agent").write_bytes(checkpoints.as_bytes(agent))
    assert bitrl.load_agent(tmp_path / "agent").act([0, 0, 0, 0]) in (0, 1)


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), 1e39])
def test_infinite_observations_are_refused(agent, tmp_path, bad):
    (tmp_path / "agent").write_bytes(checkpoints.as_bytes(agent))
    with pytest.raises(UsageError, match="observation: expected finite numbers, no NaN or infinity"):
        bitrl.load_agent(tmp_path / "agent").act([0, bad, 0, 0])


def test_an_identity_of_before_is_compared_by_the_seal():
    now = {"model_sha256": "of the file", "model_seal": "of the header", "layers": 4}
    before = {"model_sha256": "of the header", "layers": 4}
    assert identity_changes(before, now) == []
    assert identity_changes(now, now) == []
    assert identity_changes({**before, "layers": 3}, now) == ["layers"]
    assert "model_sha256" in identity_changes({**before, "model_sha256": "another"}, now)


@pytest.fixture(scope="module")
def factored(tmp_path_factory):
    """The file of an agent that observes and acts in parts, with masks."""
    folder = tmp_path_factory.mktemp("factored")
    task = make_task(FactoredEnvironment("Dict"))
    algorithm = PPO(parse(PPOOptions, {}, "algo"), task)
    example = task.collector.states.observations
    spec = FactoredEnvironment("Dict").observation_spec()
    facts = {
        "env": "levers", "step": 0, "serializer": {"name": "vector", "options": {}}, "backbone": None, "identity": {},
        "history": 1, "history_tokens": 512, "observation": attrs.asdict(spec), "versions": {},
    }  # fmt: skip
    agents.write(folder / "agent", facts, algorithm.plain_policy(), {}, example)
    found = bitrl.load_agent(folder / "agent").act(bitrl.load_agent(folder / "agent").example)
    assert task.collector.action_space.contains(found)
    task.collector.envs.close()
    return checkpoints.read(folder / "agent")


def lacking(arrays, name):
    """An array of records without one of their fields."""
    return arrays[name][[each for each in arrays[name].dtype.names if each != "lamps"]].astype(
        [(each, arrays[name].dtype[each]) for each in arrays[name].dtype.names if each != "lamps"]
    )


def with_part(name, part, value):
    def change(meta, arrays):
        arrays[name] = arrays[name].copy()
        arrays[name][part] = value

    return change


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            with_part("policy.low", "gear", 4),
            "policy.low, policy.high: expected integers, the first at most the second",
        ),
        (with_part("policy.low", "push", np.nan), "policy.low holds 2 numbers that are NaN"),
        (with_part("policy.high", "gear", 10**15), "policy: its low, high and network do not fit together"),
        (lambda meta, arrays: arrays.update({"policy.low": lacking(arrays, "policy.low")}), "a kind for each part"),
        (lambda meta, arrays: arrays.update({"policy.kinds": np.array([0, 1, 9], np.int8)}), "a kind for each part"),
        (lambda meta, arrays: arrays.update({"policy.kinds": np.array([0, 1], np.int8)}), "a kind for each part"),
        (lambda meta, arrays: arrays.update({"policy.kinds": np.array([0, 0, 0], np.int8)}), "do not fit together"),
        (lambda meta, arrays: arrays.update({"policy.low": np.array(["a"])}), "policy.low holds no numbers"),
        (lambda meta, arrays: arrays.pop("policy.kinds"), "policy.kinds is missing"),
        (lambda meta, arrays: meta["observation"]["parts"].append(["lever"]), 'no part "lever"'),
        (lambda meta, arrays: meta["observation"].update(parts=[["levers", 3]]), '"parts": expected a list of paths'),
        (lambda meta, arrays: meta["observation"].update(images="all"), '"images": expected a list of names'),
    ],
)
def test_what_describes_no_actions_in_parts_is_refused(factored, tmp_path, change, error):
    assert error in refusal(factored, tmp_path, change)
