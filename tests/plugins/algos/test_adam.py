"""Adam takes torch's steps, bit for bit, without torch.optim's class and what that imports."""

import subprocess
import sys

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


def test_trainings_import_no_compiler(tmp_path):
    program = """
import sys, bitrl
bitrl.run("CartPole-v1", steps=64, out=sys.argv[1], options={
    "algo.rollout_steps": 32, "run.num_envs": 2, "run.eval_episodes": 0, "backbone.lora_rank": 1})
bitrl.run("reverse-word", algo="grpo", steps=64, out=sys.argv[2], options={"run.eval_episodes": 0})
print("torch._dynamo" in sys.modules)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "lora"), str(tmp_path / "grpo")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
