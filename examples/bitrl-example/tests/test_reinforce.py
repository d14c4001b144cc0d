import numpy as np
from bitrl_example import ReinforceOptions
from bitrl_example.reinforce import Reinforce, softmax

import bitrl.testing


def test_softmax_gives_probabilities_in_the_ratio_of_the_powers():
    np.testing.assert_allclose(softmax(np.log([[1.0, 3.0]]) + 1000.0), [[0.25, 0.75]])


def test_it_learns_to_keep_the_pole_upright_for_longer():
    task = bitrl.testing.make_task("CartPole-v1", num_envs=8)
    algorithm = Reinforce(ReinforceOptions(rollout_steps=1024, learning_rate=20.0), task)
    returns = [algorithm.update()["episode_return"] for _ in range(12)]
    task.collector.envs.close()
    assert returns[-1] > 3 * returns[0]
