"""A torch module beneath the engine's networks: its memory is shared, and what it does wrong is said of it."""

import gymnasium
import numpy as np
import pytest
import torch
from learning_backbones import Normed, ppo
from torch import nn

from bitrl.core.errors import RunFailed, UsageError
from bitrl.plugins.algos.torch_module import TorchModule

INPUTS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


def used(make, **options):
    module = TorchModule(make, seed=5, who="backbone test", width=2, **options)
    arrays = np.zeros(module.size, np.float32), np.full(module.size, np.nan, np.float32)
    module.use(*arrays)
    return module, *arrays


def test_its_weights_are_drawn_by_the_seed_and_no_global_state_changes():
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    module, parameters, _ = used(lambda: nn.Linear(3, 2))
    assert torch.random.get_rng_state().equal(before)
    assert torch.get_num_threads() == threads
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        wanted = nn.Linear(3, 2)
    np.testing.assert_array_equal(parameters[:6], wanted.weight.detach().numpy().ravel())
    np.testing.assert_array_equal(module.outputs(INPUTS), wanted(torch.from_numpy(INPUTS)).detach().numpy())


def test_arrays_and_module_share_their_memory():
    module, parameters, gradients = used(lambda: nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)))
    for _ in range(2):  # gradients are set, not added up
        module.forward(INPUTS)
        module.backward(np.ones((6, 2), np.float32))
    np.testing.assert_array_equal(gradients[-2:], [6, 6])  # of the last biases
    assert np.isfinite(gradients).all()
    parameters[:] = 0
    assert not module.outputs(INPUTS).any()


class Pair(nn.Linear):
    """Gives two things, as recurrent modules do."""

    def __init__(self):
        super().__init__(3, 2)

    def forward(self, inputs):
        return super().forward(inputs), None


def test_what_needs_no_gradient_is_left_out_where_only_adapters_learn():
    def half_frozen():
        layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        layers[0].requires_grad_(False)
        return layers

    assert used(half_frozen)[0].size == 16 + 10
    module, _, gradients = used(half_frozen, frozen=True)
    assert module.size == 10
    module.forward(INPUTS)
    module.backward(np.ones((6, 2), np.float32))
    np.testing.assert_array_equal(gradients[-2:], [6, 6])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: nn.Linear(3, 4),
            RunFailed,
            r"backbone test: its module\(\) gave torch.float32 \[6, 4\] of 6 states: expected torch.float32 \[6, 2\]",
        ),
        (lambda: nn.Flatten(0), RunFailed, r"gave torch.float32 \[18\] of 6 states"),
        (lambda: nn.LazyLinear(2), RunFailed, r"backbone test: its module\(\) has lazy layers"),
        (lambda: abs, RunFailed, r"backbone test: its module\(\) is a builtin_function_or_method: expected a torch.nn"),
        (Pair, RunFailed, r"backbone test: its module\(\) gave a tuple: expected a tensor of features"),
        (lambda: nn.Linear(7, 2), RunFailed, r"backbone test failed: RuntimeError: .*: tell its authors"),
        (lambda: nn.Linear(3, 2).double(), UsageError, r"parameters of torch.float64: expected torch.float32"),
    ],
)
def test_what_it_does_wrong_is_said_of_it(make, error, message):
    with pytest.raises(error, match=message):
        used(make)[0].outputs(INPUTS)


def test_a_run_says_which_backbones_module_is_wrong():
    class Narrow(Normed):
        def module(self):
            return nn.Linear(3, 4)

    algorithm = ppo(gymnasium.spaces.Discrete(3), Narrow(), trainable=True)
    with pytest.raises(RunFailed, match=r"^backbone Narrow: its module\(\) gave torch.float32 \[4, 4\] of 4 states"):
        algorithm.update()
