"""BabyAI: the text says what MiniGrid's own grid holds, and nothing is printed."""

import re

import numpy as np
import pytest

import bitrl
from bitrl.core.environments.loading import load_serializer
from bitrl.plugins.envs import babyai
from bitrl.plugins.envs.samples import BABYAI_IDS, babyai_samples
from bitrl.plugins.serializers import grid
from bitrl.testing import check_environment, check_serializer

Grid = pytest.importorskip("minigrid.core.grid", reason="needs the extra bitrl[babyai]").Grid

ID = "BabyAI-GoToRedBall-v0"
AHEAD = ((1, 0), (0, 1), (-1, 0), (0, -1))  # MiniGrid's directions: x to the right, y downwards


def visited_states(ids, steps, seed=0):
    rng = np.random.default_rng(seed)
    for id in ids:
        env = babyai.make(id)
        observation, _ = env.reset(seed=seed)
        for _ in range(steps):
            yield env, observation
            observation, _, terminated, truncated, _ = env.step(rng.choice(6, p=[0.15, 0.15, 0.4, 0.15, 0.05, 0.1]))
            if terminated or truncated:
                observation, _ = env.reset()
        env.close()


def described(text):
    """{(ahead, right): name} of the objects in a text, and {side: steps} of the walls."""
    walls = {side: int(steps) for steps, side in re.findall(r"wall (\d+) (ahead|left|right)", text)}
    seen = {}
    for name, ahead, steps, side in re.findall(
        r"((?:(?:open|closed|locked) )?\w+ (?:ball|box|key|door))(?: (\d+) ahead)?(?: (\d+) (left|right))?(?=[,.])",
        text.partition("carrying")[2].partition(" ")[2],
    ):
        if ahead or steps:
            seen[int(ahead or 0), int(steps or 0) * (-1 if side == "left" else 1)] = name
    return seen, walls


def there(grid_env):
    """The same from MiniGrid's whole grid, where what it says to be in sight, as its `agent_sees` does, is the same."""
    sight = Grid.decode(grid_env.gen_obs()["image"])[0]
    (fx, fy), (x, y) = AHEAD[grid_env.agent_dir], grid_env.agent_pos
    seen, walls = {}, {}
    for i in range(grid_env.grid.width):
        for j in range(grid_env.grid.height):
            thing = grid_env.grid.get(i, j)
            ahead, right = (i - x) * fx + (j - y) * fy, (j - y) * fx - (i - x) * fy
            if (i, j) == (x, y) or thing is None or not grid_env.in_view(i, j):
                continue
            in_sight = sight.get(*grid_env.relative_coords(i, j))
            if in_sight is None or in_sight.type != thing.type:
                continue
            if thing.type == "wall":
                for side, on_ray, steps in (
                    ("ahead", right == 0, ahead), ("left", ahead == 0, -right), ("right", ahead == 0, right),
                ):  # fmt: skip
                    if on_ray and steps > 0:
                        walls[side] = min(steps, walls.get(side, 99))
            else:
                state = ""
                if thing.type == "door":
                    state = "locked " if thing.is_locked else "open " if thing.is_open else "closed "
                seen[ahead, right] = f"{state}{thing.color} {thing.type}"
    return seen, walls


def test_the_text_says_what_is_there():
    write = load_serializer("grid", env=ID)
    objects, doors, carried = 0, set(), 0
    for env, observation in visited_states(BABYAI_IDS, 80):
        text, grid_env = write(observation), env.unwrapped
        assert text.startswith(
            f"{grid_env.mission.lower()}. facing {('east', 'south', 'west', 'north')[grid_env.agent_dir]}, "
        )
        objects_there = there(grid_env)
        assert described(text) == objects_there
        before = grid_env.grid.get(*grid_env.front_pos)
        assert grid.blocked(observation["image"]) == (before is not None and before.type not in ("floor", "goal"))
        load = grid_env.carrying
        assert f"carrying {f'{load.color} {load.type}' if load else 'nothing'}." in text
        objects += len(objects_there[0])
        doors |= {name.split()[0] for name in objects_there[0].values() if name.endswith("door")}
        carried += load is not None
    assert objects > 700
    assert doors == {"open", "closed", "locked"}
    assert carried > 10


def test_what_the_mission_names_comes_first_and_then_the_nearest():
    write = load_serializer("grid", env="BabyAI-GoToLocal-v0")
    behind = 0
    for env, observation in visited_states(["BabyAI-GoToLocal-v0"], 200):
        target = env.unwrapped.instrs.desc
        placed = list(described(write(observation))[0].items())  # in the order of the text
        meant = [name.split()[-2:] == [target.color, target.type] for _, name in placed]
        distances = [ahead + abs(right) for (ahead, right), _ in placed]
        assert meant == sorted(meant, reverse=True)
        for kind in (True, False):
            nearest_first = [each for each, is_meant in zip(distances, meant, strict=True) if is_meant == kind]
            assert nearest_first == sorted(nearest_first)
        behind += any(meant) and distances[0] > min(distances)
    assert behind > 20  # times something else was nearer


@pytest.mark.parametrize(
    ("mission", "expected"),
    [
        ("go to the red ball", [("red", "ball")]),
        ("pick up a grey object", [("grey", None)]),
        ("open the door", [(None, "door")]),
        ("put the blue key next to a box", [("blue", "key"), (None, "box")]),
        ("get to the goal", []),
    ],
)
def test_the_objects_of_a_mission(mission, expected):
    assert grid.mentions(mission) == expected


def test_a_key_a_locked_door_and_a_goal_are_described_all_the_way():
    """The shortest way through DoorKey, by hand: the key lies to the agent's right, the door ahead and to its left."""
    left, right, forward, pick_up, toggle = 0, 1, 2, 3, 5
    door = "locked yellow door 1 ahead"
    way = [
        (right, "south, carrying nothing. wall 2 ahead, wall 1 left, wall 1 right. yellow key 1 ahead"),
        (pick_up, "south, carrying yellow key. wall 2 ahead, wall 1 left, wall 1 right. nothing in sight"),
        (left, f"east, carrying yellow key. wall 1 ahead, wall 2 left, wall 2 right. {door} 1 left"),
        (left, f"north, carrying yellow key. wall 2 ahead, wall 1 left, wall 1 right. {door} 1 right"),
        (forward, "north, carrying yellow key. wall 1 ahead, wall 1 left. locked yellow door 1 right"),
        (right, f"east, carrying yellow key. wall 1 left, wall 3 right. {door}"),
        (toggle, "east, carrying yellow key. wall 3 ahead, wall 1 left, wall 3 right. open yellow door 1 ahead, "
                 "green goal 2 ahead 2 right"),
        (forward, "east, carrying yellow key. wall 2 ahead, wall 1 left, wall 1 right. green goal 1 ahead 2 right"),
        (forward, "east, carrying yellow key. wall 1 ahead, wall 1 left, wall 3 right. green goal 2 right"),
        (right, "south, carrying yellow key. wall 3 ahead, wall 1 left, wall 3 right. open yellow door 1 right, "
                "green goal 2 ahead"),
        (forward, "south, carrying yellow key. wall 2 ahead, wall 1 left, wall 1 right. green goal 1 ahead"),
    ]  # fmt: skip
    env, write = babyai.make("MiniGrid-DoorKey-5x5-v0"), load_serializer("grid", env="MiniGrid-DoorKey-5x5-v0")
    mission = "use the key to open the door and then get to the goal. facing "
    start = "east, carrying nothing. wall 1 ahead, wall 2 left, wall 2 right. yellow key 1 right, "
    assert write(env.reset(seed=3)[0]) == f"{mission}{start}{door} 1 left."
    for action, words in way:
        assert write(env.step(action)[0]) == f"{mission}{words}."
    assert env.step(forward)[4]["success"]


def test_the_tables_are_minigrids():
    from minigrid.core import constants

    for mine, theirs in (
        (grid.OBJECTS, constants.OBJECT_TO_IDX),
        (grid.COLOURS, constants.COLOR_TO_IDX),
        (grid.DOOR_STATES, constants.STATE_TO_IDX),
    ):
        assert dict(zip(mine, range(len(mine)), strict=True)) == theirs


def test_every_mission_is_in_its_space():
    import gymnasium

    ids = [id for id in gymnasium.registry if id.startswith("BabyAI-")]
    assert len(ids) > 50
    for id in ids[::8]:
        env = babyai.make(id)
        observation, _ = env.reset(seed=1)
        assert env.observation_space.contains(observation), (id, observation["mission"])


def test_nothing_is_printed(capfd):
    env = babyai.make(ID)
    for seed in range(40):
        env.reset(seed=seed)
    assert capfd.readouterr().out == ""
    for seed in range(40):
        env.unwrapped.reset(seed=seed)
    assert "Sampling rejected" in capfd.readouterr().out


def test_success_is_reported_at_the_end():
    env = babyai.make(ID)
    ends = []
    for seed in range(12):
        env.reset(seed=seed)
        done = False
        while not done:
            grid_env = env.unwrapped
            (fx, fy), (x, y) = AHEAD[grid_env.agent_dir], grid_env.agent_pos
            ball = next(o for o in grid_env.grid.grid if o is not None and (o.type, o.color) == ("ball", "red"))
            ahead = (ball.cur_pos[0] - x) * fx + (ball.cur_pos[1] - y) * fy
            right = (ball.cur_pos[1] - y) * fx - (ball.cur_pos[0] - x) * fy
            blocked = grid_env.grid.get(x + fx, y + fy) is not None
            action = 2 if ahead > 0 and not blocked else 1 if right > 0 or blocked else 0
            if seed % 2:
                action = 0
            _, reward, terminated, truncated, info = env.step(action)
            done = terminated or truncated
            assert ("success" in info) == done
        ends.append(info["success"])
        assert info["success"] == (reward > 0)
    assert set(ends) == {True, False}


def test_it_keeps_the_contract():
    check_environment(ID)
    check_serializer("grid", env=ID)
    check_serializer("grid")


@pytest.mark.parametrize("serializer", ["json", "natural", "compact", "vector"])
def test_a_grid_is_refused_where_numbers_are_written(serializer):
    with pytest.raises(bitrl.UsageError, match="is a grid, not a list of numbers: use --serializer grid"):
        load_serializer(serializer, env=ID)
    with pytest.raises(
        bitrl.UsageError, match="serializer grid is for MiniGrid environments, and CartPole-v1 is not one"
    ):
        load_serializer("grid", env="CartPole-v1")


def test_samples_tell_the_facts_of_their_texts():
    samples = babyai_samples(BABYAI_IDS[:6], 240, seed=3)
    assert samples == babyai_samples(BABYAI_IDS[:6], 240, seed=3)
    assert [sample.id for sample in samples] == [id for id in BABYAI_IDS[:6] for _ in range(40)]
    for sample in samples:
        assert sample.text.startswith(f"{sample.mission}. ")
        named = f"{sample.colour or ''} {sample.kind or 'object'}".strip()
        assert named in sample.mission
        seen, _ = described(sample.text)
        matching = [place for place, name in seen.items() if {sample.colour, sample.kind} - {None} <= set(name.split())]
        assert sample.visible == bool(matching)
        if matching:
            assert (sample.ahead, sample.right) in matching
            assert sample.ahead + abs(sample.right) == min(ahead + abs(right) for ahead, right in matching)
    assert 0.2 < np.mean([sample.visible for sample in samples]) < 0.9


def test_a_run_reads_grids_and_counts_successes(tmp_path):
    options = {"algo.rollout_steps": 16, "run.num_envs": 2, "run.eval_episodes": 2, "backbone.layers": 1}
    summary = bitrl.run(ID, steps=32, out=tmp_path / "run", options=options)
    assert summary["serializer"] == "grid"
    assert 0 <= summary["eval"]["success_rate"] <= 1
