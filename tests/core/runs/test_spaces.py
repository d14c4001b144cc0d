"""Runs in environments whose observations and actions have several parts: rollout, history, resume, export and act."""

import json
from pathlib import Path

import attrs
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

import bitrl
from bitrl.cli import main
from bitrl.core.acting import agents
from bitrl.core.acting.nested import flat_one, leaves, part_at
from bitrl.core.acting.plain_observations import as_plain, plain_action
from bitrl.core.environments.observations import as_array
from bitrl.core.environments.random_play import observations_of
from bitrl.core.options import parse
from bitrl.core.runs.parts import EVALUATION, spawn_seeds
from bitrl.core.runs.state_recorder import read_states
from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.ppo import PPO
from bitrl.testing import make_task
from bitrl.testing.small_environments import FactoredEnvironment

QUICK = {
    "algo.rollout_steps": 32,
    "algo.minibatch_size": 16,
    "algo.epochs": 2,
    "run.num_envs": 2,
    "run.eval_episodes": 3,
    "serializer.width": 64,
}


class Workshop(gymnasium.Env):
    """A robot that observes and acts in parts of parts; which tools there are changes from step to step."""

    observation_space = spaces.Dict(
        {
            "arm": spaces.Tuple((spaces.Box(-1, 1, (1, 2), np.float64), spaces.Dict({"grip": spaces.MultiBinary(2)}))),
            "task": spaces.Dict({"words": spaces.Text(20)}),
            "stock": spaces.MultiDiscrete([9, 9], start=[-4, 0]),
        }
    )
    action_space = spaces.Dict(
        {
            "tool": spaces.Discrete(3, start=2),
            "move": spaces.Tuple((spaces.Box(-np.inf, np.inf, (2, 3)), spaces.MultiBinary((1, 2)))),
            "shelf": spaces.MultiDiscrete([2, 4], start=[0, 1]),
        }
    )

    strict = True

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.look()

    def step(self, action):
        assert self.action_space.contains(action), action
        assert action["tool"] in self.tools or not self.strict, (action, self.tools)
        self.time += 1
        observation, info = self.look()
        reward = float(action["tool"] == 4) + float(action["shelf"][1] == 3) - float(np.abs(action["move"][0]).mean())
        return observation, reward, False, self.time >= 5, info

    def look(self):
        tools = self.np_random.integers(0, 2, 3)
        tools[self.np_random.integers(3)] = 1
        self.tools = {2 + int(place) for place in np.flatnonzero(tools)}
        grip = {"grip": self.np_random.integers(0, 2, 2).astype(np.int8)}
        arm = (self.np_random.uniform(-1, 1, (1, 2)), grip)
        stock = self.np_random.integers([-4, 0], [5, 9])
        return {"arm": arm, "task": {"words": f"item {self.time}"}, "stock": stock}, {"action_mask": {"tool": tools}}


gymnasium.register("Workshop-v0", Workshop)


@pytest.fixture(scope="module", params=[1, 3], ids=["one state", "three states"])
def runs(request, tmp_path_factory):
    """A run of 128 steps, and one that was stopped after 64 and went on."""
    folder = tmp_path_factory.mktemp("workshop")
    options = QUICK | {"run.history": request.param, "run.checkpoint_every": 1}
    given = {"serializer": "hash", "backbone": "mlp", "options": options}
    summary = bitrl.run("Workshop-v0", steps=128, out=folder / "straight", **given)
    bitrl.run("Workshop-v0", steps=64, out=folder / "resumed", **given)
    return folder / "straight", folder / "resumed", summary, bitrl.resume(folder / "resumed", steps=128)


def test_a_resumed_run_has_the_same_bytes(runs):
    straight, resumed, summary, again = runs
    assert (straight / "metrics.jsonl").read_bytes() == (resumed / "metrics.jsonl").read_bytes()
    newest = [max((run / "checkpoints").iterdir()) for run in (straight, resumed)]
    assert newest[0].read_bytes() == newest[1].read_bytes()
    assert summary["eval"] == again["eval"]
    assert bitrl.evaluate(straight)["mean_return"] == summary["eval"]["mean_return"]


def test_an_exported_agent_acts_as_the_run_does(runs, tmp_path):
    straight, *_ = runs
    file = tmp_path / "agent.safetensors"
    bitrl.export(straight, file)
    agent = bitrl.load_agent(file)
    env, returns = Workshop(), []
    found = bitrl.evaluate(straight, episodes=2, seed=5)
    for seed in spawn_seeds(5, EVALUATION, 2):
        (observation, info), ended, total, episode = env.reset(seed=seed), False, 0.0, agent.episode()
        while not ended:
            action = episode.act({"observation": observation, "action_mask": info["action_mask"]})
            assert isinstance(action["tool"], int)
            assert env.action_space.contains(action)
            observation, reward, _, ended, info = env.step(action)
            total += reward
        returns.append(total)
    assert returns == pytest.approx(found["returns"], rel=1e-5)


def test_act_answers_in_json(runs, tmp_path, monkeypatch, capfd):
    straight, *_ = runs
    file = tmp_path / "agent.safetensors"
    bitrl.export(straight, file)
    example = bitrl.load_agent(file).example
    assert {*example} == {"observation", "action_mask"}
    observation = example["observation"]
    assert observation["arm"][1]["grip"][0] in (0, 1)
    assert len(observation["arm"][0][0]) == 2
    masks = [example["action_mask"], {"tool": [0, 1, 0]}, {"tool": [0, 1]}, {"tool": [0, 0, 0]}]
    lines = [json.dumps({"observation": observation, "action_mask": mask}) for mask in masks]
    lines.append(json.dumps({"observation": observation | {"arm": observation["arm"][:1]}, "action_mask": masks[0]}))
    (tmp_path / "lines").write_text("\n".join(lines))
    capfd.readouterr()
    with open(tmp_path / "lines", encoding="utf-8") as given:
        monkeypatch.setattr("sys.stdin", given)
        with pytest.raises(SystemExit):
            main(["act", str(file)])
    first, second, third, fourth, fifth = map(json.loads, capfd.readouterr().out.splitlines())
    assert (len(first["move"]), len(first["move"][0]), len(first["move"][1][0]), len(first["shelf"])) == (2, 2, 2, 2)
    assert second["tool"] == 3
    assert third == {"error": "line 3: \"action_mask\"['tool']: expected 0 or 1 for each of 3 values, got [0, 1]"}
    assert fourth["error"].startswith("line 4: the action_mask forbids every value of ['tool']")
    assert fifth["error"].startswith('line 5: "arm": expected a list of its 2 parts')


def test_a_watched_episode_shows_the_actions_parts(runs):
    straight, *_ = runs
    shown = []
    bitrl.evaluate(straight, episodes=1, seed=5, show=shown.append)
    assert len(shown) == 5
    for step in shown:
        assert [*step.action] == ["move", "shelf", "tool"]
        assert json.loads(json.dumps(step.action)) == step.action


@pytest.mark.parametrize("kind", ["MultiDiscrete", "MultiBinary", "Dict", "Tuple"])
def test_agents_of_every_kind_of_actions_act_as_the_algorithm(kind, tmp_path):
    task = make_task(FactoredEnvironment(kind), num_envs=16)
    algorithm = PPO(parse(PPOOptions, {"rollout_steps": 64}, "algo"), task)
    algorithm.update()
    states = task.collector.states
    facts = {
        "env": kind, "step": 0, "serializer": {"name": "vector", "options": {}}, "backbone": None, "identity": {},
        "history": 1, "history_tokens": 512, "observation": attrs.asdict(FactoredEnvironment(kind).observation_spec()),
    }  # fmt: skip
    agents.write(tmp_path / "agent", facts, algorithm.plain_policy(), {}, states.observations)
    agent, space = bitrl.load_agent(tmp_path / "agent"), task.collector.action_space
    acted = agent.act_batch([as_plain(row) for row in states.observations])
    assert all(map(space.contains, acted))
    mine = np.array([as_array(space, action) for action in acted])
    wanted = algorithm.act(states)
    assert mine.dtype == wanted.dtype
    for path, *_ in leaves(mine.dtype):
        np.testing.assert_allclose(part_at(mine, path), part_at(wanted, path), rtol=1e-4, atol=1e-6)
    assert isinstance(acted[0], {"Dict": dict, "Tuple": tuple}.get(kind, np.ndarray))
    assert json.loads(json.dumps(plain_action(acted[0]))) == plain_action(acted[0])
    task.collector.envs.close()


def test_a_state_reads_by_the_names_of_its_parts():
    written = bitrl.load_serializer("json", env="Workshop-v0")
    env = Workshop()
    observation, _ = env.reset(seed=0)
    found = json.loads(written(observation))
    assert [*found] == ["task.words", "arm.0.0", "arm.0.1", "arm.1.grip.0", "arm.1.grip.1", "stock.0", "stock.1"]
    assert (found["task.words"], found["stock.0"]) == ("item 0", observation["stock"][0])
    assert found["arm.0.1"] == pytest.approx(observation["arm"][0][0, 1], abs=1e-3)
    backwards = {name: observation[name] for name in reversed(observation)}
    assert written(backwards) == written(observation)
    component = bitrl.load_environment("Workshop-v0")
    states = observations_of(component, 3)
    assert states.dtype.names == ("task.words", "numbers")
    parts = component.observation_spec().parts
    np.testing.assert_array_equal(flat_one(observation, parts)["numbers"], states["numbers"][0])


@pytest.mark.parametrize("name", ["json", "natural", "compact", "bins", "codes", "template", "vector", "hash"])
def test_every_serializer_reads_parts_one_by_one_and_in_batches(name, monkeypatch):
    monkeypatch.setattr(Workshop, "strict", False)  # codes are fitted to random play, which knows no masks
    options = {"states": 64, "codes": 8} if name == "codes" else {}
    serializer, env = bitrl.load_serializer(name, env="Workshop-v0", **options), Workshop()
    seen = [env.reset(seed=1)[0]]
    seen += [env.look()[0] for _ in range(3)]
    records = np.array([as_array(env.observation_space, each) for each in seen])
    written, singly = serializer.batch(records), [serializer(each) for each in seen]
    if name in ("vector", "hash"):
        assert written.shape == (4, serializer.width)
        np.testing.assert_array_equal(written, np.stack(singly))
    else:
        assert written == singly
        assert all("item 0" in text.lower() for text in written)
    if name == "codes":
        again = bitrl.load_serializer(name, env="Workshop-v0", **options)
        again.load_state(serializer.state())
        assert again.batch(records) == written


def test_recorded_states_are_the_numbers_in_the_order_of_the_fields(runs, tmp_path):
    straight, *_ = runs
    bitrl.evaluate(straight, episodes=1, seed=5, states=tmp_path / "states.safetensors")
    states = read_states(tmp_path / "states.safetensors")
    assert states.shape == (6, 6)
    assert (np.abs(states[:, :2]) <= 1).all()
    assert np.isin(states[:, 2:4], (0, 1)).all()


def test_blackjacks_numbers_have_names():
    written = bitrl.load_serializer("json", env="Blackjack-v1")
    assert written((14, 10, 1)) == '{"player_sum": 14, "dealer_card": 10, "usable_ace": 1}'
    component = bitrl.load_environment("Blackjack-v1")
    states = observations_of(component, 30)
    fields = component.observation_spec().fields
    low, high = ([getattr(field, bound) for field in fields] for bound in ("low", "high"))
    assert ((low <= states) & (states <= high)).all()
    assert component.action_names() == ("stick", "hit")


class WalkVector(VectorEnv):
    """Random walks that exist as a vector environment alone, in the mode of automatic resets that the class says."""

    mode = AutoresetMode.SAME_STEP

    def __init__(self, num_envs=1, max_episode_steps=None, render_mode=None):
        self.metadata = {"autoreset_mode": self.mode}
        self.num_envs, self.render_mode = num_envs, render_mode
        self.single_observation_space = spaces.Box(-100, 100, (2,))
        self.single_action_space = spaces.Dict({"left": spaces.Discrete(2), "far": spaces.Box(0, 1, ())})
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1, self.num_envs)
        self.time = np.zeros(self.num_envs)
        return self.look(), {}

    def step(self, actions):
        self.place = self.place + np.where(actions["left"], -1, 1) * (0.5 + actions["far"])
        self.time, rewards = self.time + 1, -np.abs(self.place)
        ended, info = self.time >= 4, {}
        if self.mode is AutoresetMode.SAME_STEP and ended.any():
            last = np.full(self.num_envs, None, object)
            for index in np.flatnonzero(ended):
                last[index] = self.look()[index]
            info = {"final_obs": last, "_final_obs": ended, "final_info": {"success": ended, "_success": ended}}
            self.place[ended], self.time[ended] = self.np_random.uniform(-1, 1, int(ended.sum())), 0
        return self.look(), rewards, np.zeros(self.num_envs, bool), ended, info

    def look(self):
        return np.stack([self.place, self.time], axis=1).astype(np.float32)


class NextStepVector(WalkVector):
    mode = AutoresetMode.NEXT_STEP


gymnasium.register("WalkVector-v0", vector_entry_point=WalkVector)
gymnasium.register("NextStepVector-v0", vector_entry_point=NextStepVector)


@pytest.mark.parametrize("name", ["WalkVector", "NextStepVector"])
def test_a_vector_only_environment_trains_as_single_ones(name, tmp_path):
    env = bitrl.load_environment(f"{name}-v0").make()
    observation, _ = env.reset(seed=3)
    start = observation[0]
    for time in range(1, 5):
        observation, reward, terminated, truncated, info = env.step({"left": 0, "far": np.float32(0.5)})
        assert observation.tolist() == [pytest.approx(start + time), time]  # the last one is the episode's own
        assert reward == pytest.approx(-abs(start + time))
        assert (terminated, truncated) == (False, time == 4)
    assert info == ({"success": True} if name == "WalkVector" else {})
    assert env.reset()[0][1] == 0

    options = {name: value for name, value in QUICK.items() if name != "serializer.width"} | {"run.checkpoint_every": 1}
    given = {"backbone": "mlp", "options": options}
    straight, resumed = (Path(tmp_path, each) for each in ("straight", "resumed"))
    summary = bitrl.run(f"{name}-v0", steps=64, out=straight, **given)
    bitrl.run(f"{name}-v0", steps=32, out=resumed, **given)
    assert bitrl.resume(resumed, steps=64)["eval"] == summary["eval"]
    assert (straight / "metrics.jsonl").read_bytes() == (resumed / "metrics.jsonl").read_bytes()


class Shelves(gymnasium.Env):
    """Observes its mask among other parts, as or-gym does."""

    observation_space = gymnasium.spaces.Dict(
        {"action_mask": gymnasium.spaces.MultiBinary(3), "shelf": gymnasium.spaces.Box(0, 1, (2,))}
    )
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"action_mask": np.ones(3, np.int8), "shelf": np.zeros(2, np.float32)}, {}

    def step(self, action):
        return self.reset()[0], 1.0, True, False, {}


def test_a_mask_among_other_parts_is_said_to_be_no_mask(monkeypatch, capfd):
    monkeypatch.setitem(gymnasium.registry, "Shelves-v0", gymnasium.envs.registration.EnvSpec("Shelves-v0", Shelves))
    assert [field.name for field in bitrl.load_environment("Shelves-v0").observation_spec().fields][3:] == [
        "shelf.0",
        "shelf.1",
    ]
    [line] = [line for line in capfd.readouterr().err.splitlines() if "action_mask" in line]
    assert line.endswith(
        'observation["action_mask"] is read as numbers of the state, and every action counts as admissible: '
        'give it as info["action_mask"], or put the rest under "observation" beside it'
    )
