"""A gradient step of PPO's default heads, in the engine beside torch and the machine's limit of float32 multiply-adds.

    python benchmarks/gradient_step.py

A step is 64 samples of 256 features through both networks and back, the losses' gradients, clipping and Adam. Torch
takes it twice: as programs in torch do (autograd, and its fused Adam), and as fast as it gets there (gradients written
out). Who is measured takes turns; ratios and fractions are of neighbours in one round, medians over rounds. The limit
is of one thread for one thread, of two for two; a fraction counts the multiply-adds of the networks' products alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from record import save
from torch import nn

from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.engine_learner import (
    EngineAdam,
    EngineCategorical,
    EngineLearner,
    EngineNetwork,
    backward,
    clipped_loss,
    forward,
    squared_loss,
)
from bitrl.plugins.backbones.benchmark.limits import Limits, instructions

OPTIONS = PPOOptions()
SAMPLES, FEATURES, HIDDEN, ACTIONS = OPTIONS.minibatch_size, 256, (256, 128), 2
CLIP, ENTROPY, RATE = 0.2, 0.01, 3e-4
LIMIT_SECONDS = 0.02


def samples() -> dict[str, np.ndarray]:
    """A minibatch."""
    rng = np.random.default_rng(0)
    arrays = {"features": rng.normal(size=(SAMPLES, FEATURES)).astype(np.float32)}
    arrays |= {name: rng.normal(size=SAMPLES).astype(np.float32) for name in ("advantages", "returns")}
    old = np.full(SAMPLES, -np.log(ACTIONS), np.float32)
    return arrays | {"actions": rng.integers(0, ACTIONS, SAMPLES), "log_probs": old}


def engine_step(threads: int, batch: dict[str, np.ndarray]) -> Callable[[], None]:
    """One step in the engine."""
    learner = EngineLearner(threads)
    policy, value = (EngineNetwork(learner, (FEATURES, *HIDDEN, outputs), SAMPLES) for outputs in (ACTIONS, 1))
    for seed, net in enumerate((policy, value)):
        net.initialise(1.0, 10 * seed)
    nets = (policy, value)
    optimiser = EngineAdam(learner, [net.parameters for net in nets], [net.gradients for net in nets], eps=1e-5)
    head = EngineCategorical(learner)

    def step() -> None:
        logits, values = forward(nets, [batch["features"]] * 2)
        log_probs, _ = head.forward(logits, batch["actions"])
        loss = clipped_loss(learner, log_probs, batch["log_probs"], batch["advantages"], CLIP)
        by_logits = head.backward(loss.by_log_probs, -ENTROPY / SAMPLES)
        backward(nets, [by_logits, squared_loss(values, batch["returns"], OPTIONS.vf_coef)[1]])
        optimiser.step([RATE, RATE], OPTIONS.max_grad_norm)

    return step


def autograd_step(batch: dict[str, np.ndarray]) -> Callable[[], None]:
    """The same step in torch on one thread, with gradients by autograd."""
    of = {name: torch.from_numpy(array) for name, array in batch.items()}
    policy, value = (
        nn.Sequential(
            nn.Linear(FEATURES, HIDDEN[0]), nn.Tanh(), nn.Linear(*HIDDEN), nn.Tanh(), nn.Linear(HIDDEN[1], outputs)
        )
        for outputs in (ACTIONS, 1)
    )
    optimiser = torch.optim.Adam([*policy.parameters(), *value.parameters()], lr=RATE, eps=1e-5, fused=True)

    def step() -> None:
        advantages = (of["advantages"] - of["advantages"].mean()) / (of["advantages"].std() + 1e-8)
        distribution = torch.distributions.Categorical(logits=policy(of["features"]), validate_args=False)
        ratio = (distribution.log_prob(of["actions"]) - of["log_probs"]).exp()
        gain = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages).mean()
        error = nn.functional.mse_loss(value(of["features"]).squeeze(1), of["returns"])
        optimiser.zero_grad()
        (OPTIONS.vf_coef * error - gain - ENTROPY * distribution.entropy().mean()).backward()
        if OPTIONS.max_grad_norm is not None:
            for network in (policy, value):
                nn.utils.clip_grad_norm_(network.parameters(), OPTIONS.max_grad_norm)
        optimiser.step()

    return step


def torch_step(batch: dict[str, np.ndarray]) -> Callable[[], None]:
    """The same step in torch on one thread, as fast as it gets there: gradients written out instead of autograd's,
    all parameters of a network in one tensor, torch's fused Adam.
    """
    of = {name: torch.from_numpy(array) for name, array in batch.items()}
    policy, value = (Written((FEATURES, *HIDDEN, outputs)) for outputs in (ACTIONS, 1))
    actions = of["actions"].unsqueeze(1)

    @torch.no_grad()
    def step() -> None:
        advantages = (of["advantages"] - of["advantages"].mean()) / (of["advantages"].std() + 1e-8)
        log_probs = policy.forward(of["features"]).log_softmax(dim=1)
        probs = log_probs.exp()
        entropies = -(probs * log_probs).sum(dim=1, keepdim=True)
        ratio = (log_probs.gather(1, actions).squeeze(1) - of["log_probs"]).exp()
        unclipped, clipped = ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages
        by_log_probs = (torch.where(unclipped <= clipped, unclipped, 0.0) / -SAMPLES).unsqueeze(1)
        by_logits = -probs * (by_log_probs - ENTROPY / SAMPLES * (log_probs + entropies))
        policy.backward(by_logits.scatter_add_(1, actions, by_log_probs))
        error = value.forward(of["features"]).squeeze(1) - of["returns"]
        value.backward((2 * OPTIONS.vf_coef / SAMPLES * error).unsqueeze(1))
        policy.step()
        value.step()

    return step


class Written:
    """Linear layers with tanh between them, with a backward pass that is written out."""

    def __init__(self, widths: tuple[int, ...]):
        linear = [nn.Linear(a, b) for a, b in pairwise(widths)]
        self.flat = torch.cat([each.detach().ravel() for layer in linear for each in (layer.weight, layer.bias)])
        self.gradient = torch.zeros_like(self.flat)
        sizes = [each.numel() for layer in linear for each in (layer.weight, layer.bias)]
        self.layers, self.by_layers = (
            [(parts[2 * i].view(b, a), parts[2 * i + 1]) for i, (a, b) in enumerate(pairwise(widths))]
            for parts in (self.flat.split(sizes), self.gradient.split(sizes))
        )
        self.moments = [torch.zeros_like(self.flat) for _ in range(2)]
        self.steps = torch.zeros(())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.tape = [inputs]
        for index, (weights, biases) in enumerate(self.layers):
            if index:
                self.tape[-1] = self.tape[-1].tanh()
            self.tape.append(torch.addmm(biases, self.tape[-1], weights.t()))
        return self.tape[-1]

    def backward(self, gradient: torch.Tensor) -> None:
        for index in range(len(self.layers) - 1, -1, -1):
            torch.mm(gradient.t(), self.tape[index], out=self.by_layers[index][0])
            torch.sum(gradient, dim=0, out=self.by_layers[index][1])
            if index:
                gradient = torch.ops.aten.tanh_backward(gradient @ self.layers[index][0], self.tape[index])

    def step(self) -> None:
        norm = float(torch.linalg.vector_norm(self.gradient))
        if OPTIONS.max_grad_norm is not None and norm > OPTIONS.max_grad_norm:
            self.gradient.mul_(OPTIONS.max_grad_norm / norm)
        self.steps += 1
        torch._fused_adam_(
            [self.flat], [self.gradient], [self.moments[0]], [self.moments[1]], [], [self.steps],
            lr=RATE, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-5, amsgrad=False, maximize=False,
        )  # fmt: skip


def multiply_adds() -> int:
    """Those of both networks' products: of each layer two, and of all but the first the gradient by inputs too."""
    total = 0
    for outputs in (ACTIONS, 1):
        layers = [*pairwise((FEATURES, *HIDDEN, outputs))]
        total += SAMPLES * sum((3 if index else 2) * a * b for index, (a, b) in enumerate(layers))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--steps", type=int, default=20, help="steps in a row, of each in a round")
    parser.add_argument("--out", default="gradient-step", help="name of the file in benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    batch, limits = samples(), Limits(2, 1 << 22)
    runs = {
        "torch": torch_step(batch),
        "autograd": autograd_step(batch),
        "one_thread": engine_step(1, batch),
        "two_threads": engine_step(2, batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    fractions: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            threads = 2 if name == "two_threads" else 1
            run()
            before = limits.measure("fp32", threads, LIMIT_SECONDS)
            began = time.perf_counter()
            for _ in range(args.steps):
                run()
            seconds[name].append((time.perf_counter() - began) / args.steps)
            limit = (before + limits.measure("fp32", threads, LIMIT_SECONDS)) / 2
            fractions[name].append(multiply_adds() / seconds[name][-1] / limit)
    results: dict[str, Any] = {
        "samples": SAMPLES,
        "widths": [FEATURES, *HIDDEN],
        "rounds": args.rounds,
        "steps": args.steps,
        "limit": instructions()["fp32"],
        "milliseconds": {name: 1e3 * statistics.median(found) for name, found in seconds.items()},
        "fraction_of_limit": {name: statistics.median(found) for name, found in fractions.items()},
    } | {
        f"{rival}_to_engine": {
            name: statistics.median(a / b for a, b in zip(seconds[rival], seconds[name], strict=True))
            for name in ("one_thread", "two_threads")
        }
        for rival in ("torch", "autograd")
    }  # fmt: skip
    print(*(f"{name}: {value}" for name, value in results.items()), sep="\n")
    save(args.out, results)


if __name__ == "__main__":
    main()
