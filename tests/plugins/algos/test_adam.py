"""Adam takes torch's steps, bit for bit, without torch.optim's class and what that imports."""

import subprocess
import sys

import pytest
import torch

from bitrl.plugins.algos.adam import Adam


def test_it_takes_the_steps_of_torchs_fused_adam():
    torch.manual_seed(0)
    own = [torch.randn(7, 5, requires_grad=True), torch.randn(33, requires_grad=True)]
    theirs = [each.detach().clone().requires_grad_() for each in own]
    adam = Adam(own, [0.01, 0.1], eps=1e-5)
    reference = torch.optim.Adam(
        [{"params": one, "lr": rate} for one, rate in zip(theirs, adam.learning_rates, strict=True)],
        eps=1e-5,
        fused=True,
    )
    for step in range(20):
        for one, other in zip(own, theirs, strict=True):
            one.grad = torch.randn_like(one) * 10.0 ** (step % 5 - 2)
            other.grad = one.grad.clone()
        adam.learning_rates[0] = reference.param_groups[0]["lr"] = 0.01 / (step + 1)
        adam.step()
        reference.step()
        for one, other in zip(own, theirs, strict=True):
            assert torch.equal(one, other)
            assert all(torch.equal(value, reference.state[other][name]) for name, value in adam.state[one].items())
    assert set(adam.state[own[0]]) == {"step", "exp_avg", "exp_avg_sq"}


def test_a_parameter_without_a_gradient_is_left_alone():
    one, other = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    adam = Adam([one, other], [0.5, 0.5])
    one.grad = torch.tensor([1.0, -1.0])
    adam.step()
    torch.testing.assert_close(one.detach(), torch.tensor([0.5, 1.5]))  # by hand: the first step is the rate
    assert torch.equal(other, torch.ones(2))
    assert other not in adam.state
    adam.zero_grad()
    assert one.grad is None


@pytest.mark.parametrize(
    "args",
    [
        ["--algo=grpo", "--env=reverse-word", "--steps=128"],
        ["--env=CartPole-v1", "--steps=64", "-oalgo.rollout_steps=32", "-orun.num_envs=2", "-obackbone.lora_rank=1"],
    ],
    ids=["grpo", "lora"],
)
def test_a_training_imports_no_compiler(tmp_path, args):
    program = """
import atexit, sys
from bitrl.cli import main
atexit.register(lambda: print("torch._dynamo" in sys.modules))
main()
"""
    command = [sys.executable, "-c", program, "run", *args, "-orun.eval_episodes=1", f"--out={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
