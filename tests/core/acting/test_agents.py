"""Exported agents: that they act as the trained ones do, without torch, and refuse what they were not made for."""

import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import attrs
import gymnasium
import numpy as np
import pytest
from torch import nn

import bitrl
from bitrl.core.acting import agents, checkpoints
from bitrl.core.acting.admissible import AdmissibleActions, CommandTable
from bitrl.core.acting.plain_observations import as_array
from bitrl.core.acting.policies import (
    KINDS,
    CodebookPolicy,
    CommandPolicy,
    Continuous,
    Discrete,
    FactoredPolicy,
    Network,
    arrays_of,
    policy_of,
)
from bitrl.core.acting.states import StateReader, States
from bitrl.core.environments.loading import load_environment
from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.interfaces import Algorithm
from bitrl.core.runs.parts import EVALUATION, spawn_seeds
from bitrl.core.runs.trained import trained as load_trained
from bitrl.plugins.algos.engine_learner import EngineLearner, EngineNetwork
from bitrl.plugins.algos.numpy_policy import numpy_network
from bitrl.plugins.algos.standardise import Standardisation
from bitrl.plugins.algos.torch_module import TorchModule
from bitrl.plugins.backbones.language_model import starter_path

SMALL = {"run.num_envs": 4, "run.eval_episodes": 2, "algo.rollout_steps": 64, "algo.learning_rate": 0.01}
ONE_BLOCK = {"backbone.layers": 1, "backbone.threads": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of a short run, and the agent exported from it, by its environment and settings."""
    made = {}

    def trained(env="CartPole-v1", steps=256, backbone="bitnet", **named):
        key = (env, backbone, *sorted(named.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("agents")
            options = {**SMALL, **(ONE_BLOCK if backbone == "bitnet" else {})}
            options |= {name.replace("__", "."): value for name, value in named.items() if "__" in name}
            serializer = named.get("serializer")
            bitrl.run(env, backbone=backbone, serializer=serializer, steps=steps, out=folder / "run", options=options)
            bitrl.export(folder / "run", folder / "agent.safetensors")
            made[key] = folder
        return made[key] / "run", made[key] / "agent.safetensors"

    return trained


SETTINGS = [
    {},
    {"run__history": 3},
    {"serializer": "codes", "serializer__codes": 16, "serializer__states": 200},
    {"backbone": "mlp", "serializer": "vector"},
    {"backbone": "mlp", "serializer": "vector", "run__history": 2},
    {"env": "Pendulum-v1", "serializer": "json", "backbone__pooling": "mean"},
    {"env": "Pendulum-v1", "backbone": "mlp", "serializer": "vector", "algo__running_standardisation": True},
    {"env": "Taxi-v4"},
    {"env": "BabyAI-GoToRedBall-v0"},
    {"env": "TextWorld-Cooking", "env__games": 2, "env__eval_games": 2, "env__max_steps": 12},
    {"env": "TextWorld-Cooking", "env__games": 2, "env__eval_games": 2, "env__max_steps": 12, "run__history": 2},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())) or "defaults")
def test_an_exported_agent_does_what_the_trained_one_does(trained, settings) -> None:
    run, file = trained(**settings)
    agent, wanted = bitrl.load_agent(file), bitrl.evaluate(run)["returns"]
    options = {name[5:]: value for name, value in settings.items() if name.startswith("env__")}
    env = load_environment(settings.get("env", "CartPole-v1"), **options).make_for_evaluation()
    returns = []
    for seed in spawn_seeds(0, EVALUATION, 2):
        episode = agent.episode()
        observation, over, total = env.reset(seed=seed)[0], False, 0.0
        while not over:
            action = episode.act(observation)
            assert env.action_space.contains(action)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    assert returns == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_an_agent_reads_states_as_its_run_chose_to(trained) -> None:
    """Actions are compared, not returns: a number that is rounded the other way in a text can change an episode."""
    run, file = trained(env="Pendulum-v1", backbone__layers=None)
    _, parts, algorithm, _ = load_trained(run, lambda event: None)
    assert parts.reader.backbone.pooling == "field"
    episode, env = bitrl.load_agent(file).episode(), load_environment("Pendulum-v1").make()
    observation, _ = env.reset(seed=0)
    for torque in np.random.default_rng(0).uniform(-2, 2, (60, 1)).astype(np.float32):
        np.testing.assert_allclose(
            episode.act(observation), algorithm.act(parts.reader(observation[None]))[0], rtol=1e-5, atol=1e-6
        )
        observation = env.step(torque)[0]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())) or "defaults")
def test_its_example_is_plain_data_that_it_understands(trained, settings) -> None:
    agent = bitrl.load_agent(trained(**settings)[1])
    example = json.loads(json.dumps(agent.example))
    np.testing.assert_array_equal(as_array(example, like=agent._example), agent._example)
    agent.episode().act(example)


def test_it_acts_without_torch_or_gymnasium(trained) -> None:
    """With no more of what bitrl depends on than docs/architecture.md says."""
    _, file = trained()
    program = """
import sys
for name in ("torch", "gymnasium", "mujoco", "minigrid", "textworld", "gguf", "rich", "cattrs", "tomli_w"):
    sys.modules[name] = None
from bitrl.cli import main
main(["act", sys.argv[1]])
"""
    lines = "[0, 0, 0.1, 0]\nnull\n\n[0, 0, -0.1, 0]\n"
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)], input=lines, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    agent = bitrl.load_agent(file)
    answers = [agent.act([0, 0, 0.1, 0]), None, agent.act([0, 0, -0.1, 0])]
    assert [json.loads(line) for line in done.stdout.splitlines()] == answers


def test_more_states_are_remembered_until_the_episode_ends(trained) -> None:
    agent, seen = bitrl.load_agent(trained(run__history=3)[1]), []
    encode = agent.reader.backbone.encode
    agent.reader.backbone.encode = lambda texts: seen.extend(texts) or encode(texts)
    episode = agent.episode()
    for x in (1, 2, 3, 4):
        episode.act([x, 0, 0, 0])
    episode.reset()
    episode.act([5, 0, 0, 0])
    assert [text.count("\n") for text in seen] == [0, 1, 2, 2, 0]
    first, second, third, fourth, _ = (text.split("\n") for text in seen)
    assert (first, second, fourth) == (second[:1], third[:2], [*third[1:], fourth[-1]])


def test_one_agent_serves_many_episodes_each_with_its_own_memory_in_one_encoding(trained) -> None:
    agent, batches = bitrl.load_agent(trained(run__history=3)[1]), []
    observations = np.random.default_rng(0).normal(0, 0.1, (5, 4, 4)).astype(np.float32)  # 5 steps of 4 episodes
    alone = [
        [episode.act(each[i]) for each in observations] for i, episode in enumerate(agent.episode() for _ in range(4))
    ]
    encode = agent.reader.backbone.encode
    agent.reader.backbone.encode = lambda texts: batches.append(len(texts)) or encode(texts)
    episodes = [agent.episode() for _ in range(4)]
    together = [agent.act_batch(list(each), episodes) for each in observations]
    assert [*map(list, zip(*together, strict=True))] == alone
    assert batches == [4] * 5
    assert agent.act_batch([], []) == []
    with pytest.raises(UsageError, match=r"reads the last 3 states of an episode: start one with agent.episode\(\)"):
        agent.act(observations[0, 0])


def test_a_bad_observation_leaves_every_episode_as_it_was(trained) -> None:
    agent = bitrl.load_agent(trained(run__history=3)[1])
    episodes = [agent.episode(), agent.episode()]
    with pytest.raises(UsageError):
        agent.act_batch([[0, 0, 0, 0], [0, 0]], episodes)
    with pytest.raises(UsageError, match="expected an episode for each of 2 observations, got 1"):
        agent.act_batch([[0, 0, 0, 0]] * 2, episodes[:1])
    assert agent.act_batch([[0, 0, 0.1, 0]] * 2, episodes) == [agent.episode().act([0, 0, 0.1, 0])] * 2


def test_threads_share_an_agent(trained) -> None:
    agent = bitrl.load_agent(trained(env="TextWorld-Cooking", env__games=2, env__eval_games=2, env__max_steps=12)[1])
    commands = [f"take {word}" for word in ("apple", "knife", "pan", "door", "egg")]
    observations = [
        {**agent.example, "commands": commands[: 2 + i % 4], "observation": {**agent.example["observation"]}}
        for i in range(40)
    ]
    wanted = [agent.act(observation) for observation in observations]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(agent.act, observations * 5)) == wanted * 5


def test_networks_are_what_the_engine_makes_of_them() -> None:
    network = EngineNetwork(EngineLearner(), (5, 8, 6, 3), batch=50)
    network.initialise(1.0, 0)
    scale = Standardisation(5)
    scale.fit(np.random.default_rng(0).normal(2, 3, (100, 5)).astype(np.float32))
    features = np.random.default_rng(1).normal(2, 30, (50, 5)).astype(np.float32)  # some beyond the limit
    made = numpy_network(network, scale)
    np.testing.assert_allclose(made(features), network.outputs(scale(features)), rtol=1e-4, atol=1e-5)
    again = Network.of_arrays(made.arrays())
    np.testing.assert_array_equal(again(features), made(features))
    alone = numpy_network(network, Standardisation(5, active=False))
    assert alone.limit == math.inf
    np.testing.assert_allclose(alone(features), network.outputs(features), rtol=1e-4, atol=1e-4)


def on_a_module(*layers: nn.Module) -> EngineNetwork:
    module = TorchModule(lambda: nn.Sequential(*layers), seed=0, who="backbone test", width=2)
    module.use(np.zeros(module.size, np.float32), np.zeros(module.size, np.float32))
    network = EngineNetwork(EngineLearner(), (2, 3), batch=50, beneath=module)
    network.initialise(1.0, 0)
    return network


def test_a_plugins_module_of_tanh_layers_is_exported_beneath_them() -> None:
    network = on_a_module(nn.Linear(4, 5), nn.Tanh(), nn.Sequential(nn.Linear(5, 2), nn.Tanh()), nn.Identity())
    features = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    made = numpy_network(network, Standardisation(4, active=False))
    np.testing.assert_allclose(made(features), network.outputs(features), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "layers", [[nn.Linear(2, 2), nn.ReLU()], [nn.Linear(2, 2)] * 2, [nn.Tanh()], [nn.Linear(2, 2)]]
)
def test_other_modules_are_refused(layers) -> None:
    with pytest.raises(UsageError, match="cannot be exported: expected Linear layers with Tanh after each, got"):
        numpy_network(on_a_module(*layers), Standardisation(2))


def test_policies_survive_being_taken_apart() -> None:
    generator = np.random.default_rng(0)

    def network(*widths):
        layers = tuple((generator.normal(size=(b, a)), generator.normal(size=b)) for a, b in pairwise(widths))
        return Network(np.zeros(widths[0]), np.ones(widths[0]), 10.0, layers)

    parts = [("keys", int, 2), ("push", float), ("lamp", np.int8, 1)]
    low, high = np.array([((5, 0), -1.0, (0,))], parts), np.array([((6, 1), 0.5, (1,))], parts)
    policies = [
        Discrete(network(3, 4), 2),
        CommandPolicy(network(3, 4, 2), network(5, 2)),
        Continuous(network(3, 4), np.full((2, 2), -1.0), np.full((2, 2), 0.5)),
        CodebookPolicy(network(3, 8), generator.normal(size=(4, 2)), np.full((2, 2), -1.0), np.full((2, 2), 0.5)),
        FactoredPolicy(network(3, 7), low, high, np.array([2, 0, 3], np.int8)),
    ]
    assert {type(policy) for policy in policies} == set(KINDS.values())
    features, commands = generator.normal(size=(6, 3)), generator.normal(size=(7, 5))
    mask, rows = np.arange(4) < generator.integers(1, 5, (6, 1)), generator.integers(0, 7, (6, 4))
    admissible = AdmissibleActions(mask, rows, CommandTable("abcdefg", lambda texts: commands))
    for policy in policies:
        again = policy_of(policy.kind, arrays_of(policy))
        states = states_with(features, admissible if isinstance(policy, CommandPolicy) else None)
        np.testing.assert_array_equal(again(states), policy(states))


def states_with(features, admissible=None):
    """States of these features, and these admissible actions."""
    states = States(features, StateReader(None, None))
    states.features, states.admissible = features, admissible
    return states


def test_an_inadmissible_action_is_not_taken() -> None:
    network = Network(np.zeros(1), np.ones(1), 10.0, ((np.array([[1.0], [0.0], [-1.0]]), np.zeros(3)),))
    admissible = AdmissibleActions(np.array([[True, True, True], [False, True, True], [False, False, True]]))
    assert Discrete(network, 5)(states_with(np.ones((3, 1)), admissible)).tolist() == [5, 6, 7]


@pytest.mark.parametrize(
    ("settings", "observation", "error"),
    [
        ({}, [0, 0, 0], "observation: expected 4 numbers, got [0, 0, 0]"),
        ({}, [[0, 0, 0, 0]], "observation: expected 4 numbers"),
        ({}, [0, 0, 0, None], "observation: expected 4 numbers"),
        ({}, [0, 0, 0, "1"], "observation: expected 4 numbers"),
        ({}, [0, [1], 0, 0], "observation: expected 4 numbers"),
        ({}, [0, 0, 0, math.nan], "observation: expected finite numbers, no NaN or infinity, got [0, 0, 0, nan]"),
        ({}, {"a": 1}, "observation: expected 4 numbers"),
        ({"env": "Taxi-v4"}, 3, "expected the keys action_mask and observation; missing: action_mask, observation"),
        ({"env": "Taxi-v4"}, {"observation": 3}, "; missing: action_mask"),
        (
            {"env": "Taxi-v4"},
            {"observation": 3.5, "action_mask": [1] * 6},
            '"observation": expected integers that fit int64, got 3.5',
        ),
        ({"env": "Taxi-v4"}, {"observation": 3, "action_mask": [1] * 5}, '"action_mask": expected 6 numbers'),
        (SETTINGS[-2], {"observation": {"state": 3}, "commands": ["go"]}, '"state": expected a string, got 3'),
        (SETTINGS[-2], {"observation": {"state": "x" * 10**6}, "commands": ["go"]}, "characters, got 1,000,000"),
        (
            SETTINGS[-2],
            {"observation": {"state": "a"}, "commands": []},
            "commands: expected at least one command, got an empty list",
        ),
        (
            SETTINGS[-2],
            {"observation": "a", "commands": ["go"]},
            '"observation": expected the keys state; missing: state',
        ),
    ],
)
def test_an_observation_of_the_wrong_type_or_shape_is_refused(trained, settings, observation, error) -> None:
    agent = bitrl.load_agent(trained(**settings)[1])
    with pytest.raises(UsageError) as refused:
        agent.act(observation)
    assert error in str(refused.value)


def test_a_mask_that_forbids_everything_is_an_error(trained) -> None:
    agent = bitrl.load_agent(trained("Taxi-v4")[1])
    with pytest.raises(RunFailed, match="forbids every action"):
        agent.act({"observation": 3, "action_mask": [0] * 6})


def test_commands_may_be_a_list_or_one_per_line(trained) -> None:
    agent = bitrl.load_agent(trained(**SETTINGS[-2])[1])
    state, commands = agent.example["observation"], ["take knife", "  cook   it ", "look", "go\nnorth"]
    tidied = "\n".join(["take knife", "cook it", "look", "go north"])
    action = agent.act({"observation": state, "commands": commands})
    assert action == agent.act({"observation": state, "commands": tidied})


def test_a_file_that_is_no_agent_is_refused(trained, tmp_path) -> None:
    run, file = trained()
    data = file.read_bytes()
    cases = {
        "cut": data[:-10],
        "flipped": data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
        "empty": b"",
        "text": b"hello",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=f"{name}: not an agent, or damaged"):
            bitrl.load_agent(tmp_path / name)
    with pytest.raises(UsageError, match="a checkpoint, not an agent"):
        bitrl.load_agent(checkpoints.paths(run / "checkpoints")[0])
    with pytest.raises(UsageError, match="bitrl export"):
        bitrl.load_agent(run)
    with pytest.raises(UsageError, match="no such file"):
        bitrl.load_agent(tmp_path / "nothing")
    found = checkpoints.read(file)
    newer = attrs.evolve(found, meta={**found.meta, "agent": agents.FORMAT + 1})
    (tmp_path / "newer").write_bytes(checkpoints.as_bytes(newer))
    with pytest.raises(UsageError, match="written by another version of bitrl"):
        bitrl.load_agent(tmp_path / "newer")


def test_another_model_is_refused_and_the_same_elsewhere_is_not(trained, tmp_path) -> None:
    _, file = trained()
    (tmp_path / "elsewhere.gguf").write_bytes(starter_path(ternary=True).read_bytes())
    state = [0.1, 0.2, -0.03, 0.4]
    moved = bitrl.load_agent(file, model=str(tmp_path / "elsewhere.gguf"), threads=2)
    assert moved.act(state) == bitrl.load_agent(file).act(state)
    with pytest.raises(UsageError, match=r"model_sha256 changed.: give its model file"):
        bitrl.load_agent(file, model=str(starter_path(ternary=False)))
    with pytest.raises(UsageError, match=r"pooling changed.: remove the options that set it"):
        bitrl.load_agent(file, pooling="last")
    with pytest.raises(UsageError, match="uses no language model"):
        bitrl.load_agent(trained(backbone="mlp", serializer="vector")[1], threads=1)


def test_a_model_that_is_not_where_it_was_is_asked_for(trained, tmp_path) -> None:
    found = checkpoints.read(trained()[1])
    backbone = {**found.meta["backbone"], "options": {**found.meta["backbone"]["options"], "model": "gone.gguf"}}
    moved = attrs.evolve(found, meta={**found.meta, "backbone": backbone})
    (tmp_path / "agent").write_bytes(checkpoints.as_bytes(moved))
    with pytest.raises(
        UsageError, match=r"gone.gguf: .* \(if the model file has moved: load_agent\(..., model=FILE\)\)"
    ):
        bitrl.load_agent(tmp_path / "agent")
    model = str(starter_path(ternary=True))
    assert bitrl.load_agent(tmp_path / "agent", model=model).act([0, 0, 0, 0]) in (0, 1)


def test_the_file_is_the_same_whenever_it_is_written(trained, tmp_path) -> None:
    run, file = trained()
    found = bitrl.export(run, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == file.read_bytes()
    assert found["bytes"] == file.stat().st_size
    assert sorted(tmp_path.iterdir()) == [tmp_path / "again"]


def test_an_algorithm_need_not_be_exportable() -> None:
    class Silent(Algorithm):
        def update(self): ...
        def act(self, states): ...
        def state(self): ...
        def load_state(self, state): ...

    with pytest.raises(UsageError, match="algorithm Silent cannot be exported"):
        Silent(None, None).plain_policy()


def test_actions_of_a_box_have_its_shape_and_bounds() -> None:
    space = gymnasium.spaces.Box(-1, np.array([[0.5, 2.0]], np.float32), (1, 2), np.float32)
    network = Network(
        np.zeros(1, np.float32),
        np.ones(1, np.float32),
        10.0,
        ((np.full((2, 1), 3, np.float32), np.zeros(2, np.float32)),),
    )
    actions = Continuous(network, space.low, space.high)(states_with(np.array([[1.0], [-1.0]], np.float32)))
    assert actions.tolist() == [[[0.5, 2.0]], [[-1.0, -1.0]]]
    assert all(space.contains(action) for action in actions)


def test_an_action_is_explained_by_what_was_read(trained):
    agent = bitrl.load_agent(trained()[1])
    states = np.random.default_rng(0).normal(0, 1, (5, 4)).astype(np.float32)
    found = agent.explain(states)
    assert [each.action for each in found] == agent.act_batch(states)
    assert [each.text for each in found] == agent.reader.write(states)
    for each in found:
        [part] = each.parts
        assert part.values[int(np.argmax(part.probabilities))] == each.action
    assert agent.explain([]) == []
