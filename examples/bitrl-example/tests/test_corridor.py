from bitrl_example import CorridorOptions
from bitrl_example.corridor import CorridorEnvironment


def test_walking_right_arrives():
    env = CorridorEnvironment(CorridorOptions(length=6, slip=0.0), "corridor").make()
    observation, _ = env.reset(seed=0)
    steps = 6 - int(observation[0])
    outcomes = [env.step(1) for _ in range(steps)]
    assert [reward for _, reward, *_ in outcomes] == [0.0] * (steps - 1) + [1.0]
    assert [terminated for _, _, terminated, *_ in outcomes] == [False] * (steps - 1) + [True]


def test_walking_left_is_cut_off_after_four_lengths():
    env = CorridorEnvironment(CorridorOptions(length=6, slip=0.0), "corridor").make()
    env.reset(seed=0)
    outcomes = [env.step(0) for _ in range(24)]
    assert [truncated for _, _, _, truncated, _ in outcomes] == [False] * 23 + [True]
    assert not any(terminated for _, _, terminated, *_ in outcomes)
