"""What PPO learns in the engine, once more in torch: by autograd, torch.distributions and torch's Adam, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitrl.core.environments.collector import Rollout
from bitrl.plugins.algos.action_codebooks import ActionCodebook, LearnedActionCodebook
from bitrl.plugins.algos.engine_learner import EngineNetwork
from bitrl.plugins.algos.estimators import Estimator, correct, policy_loss
from bitrl.plugins.algos.factored_head import FactoredHead
from bitrl.plugins.algos.heads import Gaussian, TextChoice
from bitrl.plugins.algos.ppo import PPO


def double(array: np.ndarray) -> Tensor:
    """An array's numbers in float64."""
    return torch.tensor(np.asarray(array), dtype=torch.float64)


def in_torch(network: EngineNetwork) -> nn.Sequential:
    """A copy of a network in torch, float64; of what is beneath it, too."""
    layers: list[nn.Module] = [] if network.beneath is None else [copy.deepcopy(network.beneath.module).double()]
    for index, (weights, biases) in enumerate(network.layers):
        linear = nn.Linear(*weights.shape, dtype=torch.float64)
        linear.weight.data, linear.bias.data = double(weights.T), double(biases)
        layers += [linear] if index == 0 else [nn.Tanh(), linear]
    return nn.Sequential(*layers)


def in_engine(parameters: Sequence[Tensor], network: nn.Sequential) -> list[Tensor]:
    """What belongs to each of a twin's parameters (itself, or its gradient), as the engine has it: weights of its own
    layers [inputs, outputs]; what is beneath them as torch has it.
    """
    own = {layer.weight for layer in network if isinstance(layer, nn.Linear)}
    flags = [each in own for each in network.parameters()]
    return [(each.t() if mine else each).reshape(-1) for each, mine in zip(parameters, flags, strict=True)]


def flat(network: nn.Sequential) -> Tensor:
    """A twin's parameters in the engine's layout."""
    return torch.cat(in_engine([each.detach() for each in network.parameters()], network))


def flat_gradient(network: nn.Sequential) -> Tensor:
    """Their gradients."""
    return torch.cat(in_engine([gradient_of(each) for each in network.parameters()], network))


def gradient_of(parameter: Tensor) -> Tensor:
    """Its gradient; zeros if it has none."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def near(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    """Each differs by at most `tolerance` times the largest."""
    got, want = np.asarray(got), want.detach().numpy() if isinstance(want, Tensor) else want
    assert got.shape == want.shape
    assert np.abs(got - want).max(initial=0) <= tolerance * max(np.abs(want).max(initial=0), 1e-30)


# ---- quantisation ----


def rounded(weights: Tensor, bits: int) -> Tensor:
    """To QuaRL's grid, whose step is computed in float32 as the weights that it is for; straight through."""
    single = weights.detach().float()
    step = (single.min().abs() + single.max().abs()) / 2**bits
    return weights + ((step * (single / step).round()).double() - weights).detach()


def called(network: nn.Sequential, inputs: Tensor, bits: int | None = None) -> Tensor:
    """A network's outputs, by weights of so many bits."""
    if bits is None:
        out: Tensor = network(inputs)
        return out
    weights = {name: rounded(each, bits) for name, each in network.named_parameters() if name.endswith("weight")}
    out = torch.func.functional_call(network, weights, (inputs,))
    return out


# ---- distributions ----


class Head:
    """A head's distributions, by the parameters that it has now."""

    def __init__(self, head: Any):
        self.head = head
        gaussians = head.gaussians if isinstance(head, FactoredHead) else [head.gaussian] if isinstance(
            head, LearnedActionCodebook
        ) else [head] if isinstance(head, Gaussian) else []  # fmt: skip
        self.log_stds = [nn.Parameter(double(each.log_std)) for each in gaussians]
        self.keys = in_torch(head.keys) if isinstance(head, TextChoice) else None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is learned beside the network."""
        return self.log_stds if self.keys is None else [*self.keys.parameters()]

    def flat(self) -> list[Tensor]:
        """The same in the engine's layout."""
        return [each.detach() for each in self.log_stds] if self.keys is None else [flat(self.keys)]

    def __call__(self, outputs: Tensor, actions: np.ndarray, admissible: Any) -> tuple[Tensor, Tensor]:
        """Log-probabilities of actions and entropies."""
        found = [
            (each.log_prob(taken).reshape(len(outputs), -1).sum(1), each.entropy().reshape(len(outputs), -1).sum(1))
            for each, taken in self.distributions(outputs, actions, admissible)
        ]
        log_probs, entropies = (torch.stack([one[part] for one in found]).sum(0) for part in (0, 1))
        return log_probs, entropies

    def distributions(self, outputs: Tensor, actions: np.ndarray, admissible: Any) -> Iterator[tuple[Any, Tensor]]:
        """Of each part of an action, with what was taken of it."""
        head, taken = self.head, torch.tensor(actions)
        if isinstance(head, LearnedActionCodebook):
            k = head.gaussian.outputs
            outputs = outputs[:, :k] if head.codebook is None else outputs[:, k:]
            head = head.head
        if isinstance(head, FactoredHead):
            yield from factors(head, self.log_stds, outputs, taken, admissible)
        elif isinstance(head, Gaussian):
            yield torch.distributions.Normal(outputs, self.log_stds[0].exp()), taken.double()
        elif isinstance(head, ActionCodebook):
            yield torch.distributions.Categorical(logits=outputs.view(-1, *head.values.shape)), taken
        else:
            if self.keys is not None:
                scale = head.standardise
                table = (admissible.commands.features - scale.mean) / scale.std
                keys = self.keys(double(table.clip(-10, 10)))[torch.tensor(admissible.rows)]
                outputs = (outputs[:, None] * keys).sum(-1) / head.outputs**0.5
            yield categorical(outputs, None if admissible is None else torch.tensor(admissible.mask)), taken


def categorical(logits: Tensor, mask: Tensor | None) -> torch.distributions.Categorical:
    """Of logits, some of which may be masked: far below all others, but finite, or entropies would be NaN."""
    return torch.distributions.Categorical(logits=logits if mask is None else logits.masked_fill(~mask, -1e9))


def factors(
    head: FactoredHead, log_stds: Sequence[Tensor], outputs: Tensor, taken: Tensor, admissible: Any
) -> Iterator[tuple[Any, Tensor]]:
    """The distribution of each number of an action, with what was taken."""
    mask = None if admissible is None else torch.tensor(admissible.mask)
    place = choice = column = 0
    remaining = iter(log_stds)
    for factor in head.actions.factors:
        if factor.kind == "Box":
            size = factor.low.size
            gaussian = torch.distributions.Normal(outputs[:, place : place + size], next(remaining).exp())
            yield gaussian, taken[:, column : column + size].double()
            place, column = place + size, column + size
            continue
        for size in (int(each) for value, run in groupby(factor.sizes) for each in [value] * len([*run])):
            own = None if mask is None else mask[:, choice : choice + size]
            yield categorical(outputs[:, place : place + size], own), taken[:, column]
            place, choice, column = place + size, choice + size, column + 1


# ---- a whole update ----


class Scale:
    """Standardisation by a rollout's features; none where the algorithm has none."""

    def __init__(self, features: np.ndarray, active: bool):
        flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
        self.mean, self.std = (double(flat.mean(0)), double(flat.std(0) + 1e-6)) if active else (0.0, 1.0)
        self.limit = 10.0 if active else np.inf

    def __call__(self, features: Any) -> Tensor:
        """Features [..., d], an array or a tensor, standardised."""
        wide = features if isinstance(features, Tensor) else double(features)
        return ((wide - self.mean) / self.std).clamp(-self.limit, self.limit)


class Recorder:
    """A generator whose permutations are kept."""

    def __init__(self, generator: np.random.Generator):
        self.generator = generator
        self.permutations: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.generator, name)

    def permutation(self, count: int) -> np.ndarray:
        """A permutation of so many."""
        self.permutations.append(self.generator.permutation(count))
        return self.permutations[-1]


class Twin:
    """PPO's update on what `algorithm` saw, from the weights that it has when this is made: its first."""

    def __init__(self, algorithm: PPO):
        self.options, self.algorithm, self.reader = algorithm.options, algorithm, algorithm.task.reader
        self.policy, self.value, self.head = in_torch(algorithm.policy), in_torch(algorithm.value), Head(algorithm.head)
        self.groups = {
            "policy": [*self.policy.parameters(), *self.head.parameters],
            "value": [*self.value.parameters()],
        }
        self.encoder: Any = None
        if algorithm.encoder is not None:
            self.encoder = copy.deepcopy(self.reader.learner)
            self.groups["adapters"] = [*self.encoder.module().parameters()]
        self.adams = [
            torch.optim.Adam(parameters, lr=rate, eps=1e-5)
            for parameters, rate in zip(self.groups.values(), algorithm.learning_rates(0.0), strict=True)
        ]
        self.actions: list[np.ndarray] = []
        self.recorder = Recorder(algorithm.generator)
        algorithm.generator = self.recorder  # type: ignore[assignment]
        self._watch(algorithm)

    def _watch(self, algorithm: PPO) -> None:
        collect, sample = algorithm.task.collector.rollout, algorithm.head.sample

        def rollout(act: Callable[..., Any], steps: int) -> Rollout:
            self.rollout = collect(act, steps)
            return self.rollout

        def sampled(*given: Any) -> np.ndarray:
            self.actions.append(sample(*given))
            return self.actions[-1]

        algorithm.task.collector.rollout = rollout  # type: ignore[method-assign]
        algorithm.head.sample = sampled  # type: ignore[method-assign]

    def learn(self) -> dict[str, float]:
        """Make the update that the algorithm has made; its last epoch's metrics."""
        options, rollout, own = self.options, self.rollout, self.algorithm
        valid = rollout.valid
        scale = Scale(rollout.features, own.standardise.active)
        critic_scale = Scale(rollout.critic_features, own.standardise_critic.active)
        values = self._values(critic_scale(rollout.critic_features))
        advantages = self._advantages(values, self._values(critic_scale(rollout.final_critic_features)))
        x, critic_x = scale(rollout.features[:-1][valid]), critic_scale(rollout.critic_features[:-1][valid])
        actions, texts = np.stack(self.actions)[valid], None
        if self.encoder is not None:
            texts = np.array([states.texts for states in rollout.states[:-1]], object)[valid]
        admissible = rollout.admissible
        admissible = None if admissible is None else admissible.map(lambda each: each[valid])
        a, returns = double(advantages[valid]), double((advantages + values[:-1])[valid])
        with torch.no_grad():
            acted = self.head(called(self.policy, x, own.rollout_bits), actions, admissible)[0]
            proximal = self.head(called(self.policy, x), actions, admissible)[0]
        correction, clip = options.correction if options.rollout else "none", float(options.clip_coef)
        caps = {"cap": options.correction_cap, "floor": options.correction_floor}
        how = Estimator(correction, **caps, clip_low=clip, clip_high=clip)
        every = torch.ones(len(x), 1, dtype=torch.bool)
        corrected, _ = correct(proximal[:, None], acted[:, None], every, a, how)
        for order in self.recorder.permutations:
            metrics = []
            for index in torch.tensor(order).split(options.minibatch_size):
                features = x[index]
                if self.encoder is not None:
                    features = scale(self.encoder.module()(texts[index.numpy()].tolist()).double())
                shares = self.encoder is not None and self.reader.critic is None
                mask = None if admissible is None else admissible.map(lambda each, index=index: each[index.numpy()])
                outputs = called(self.policy, features, own.gradient_bits)
                log_probs, entropies = self.head(outputs, actions[index.numpy()], mask)
                standard = (a[index] - a[index].mean()) / (a[index].std() + 1e-8) if len(index) > 1 else a[index]
                total, count, sums = policy_loss(log_probs[:, None], corrected.take(index), standard, how)
                judged = called(self.value, features if shares else critic_x[index], own.value_gradient_bits)
                error = (judged[:, 0] - returns[index]).square().mean()
                loss = total / count - options.ent_coef * entropies.mean() + options.vf_coef * error
                for adam in self.adams:
                    adam.zero_grad()
                loss.backward()
                norms = [
                    float(nn.utils.clip_grad_norm_(group, options.max_grad_norm or torch.inf))
                    for group in self.groups.values()
                ]
                for adam in self.adams:
                    adam.step()
                row = {"value_loss": float(error.detach()), "entropy": float(entropies.detach().mean())}
                row |= {"approx_kl": float(sums["approx_kl"] / sums["tokens"])}
                row |= {f"{name}_gradient_norm": norm for name, norm in zip(self.groups, norms, strict=True)}
                metrics.append(row)
        return {name: float(np.mean([row[name] for row in metrics])) for name in metrics[0]}

    def flat(self) -> dict[str, Tensor]:
        """What was learned, in the engine's layout, by group."""
        found = {"policy": torch.cat([flat(self.policy), *self.head.flat()]), "value": flat(self.value)}
        if self.encoder is not None:
            found["adapters"] = torch.cat([each.detach().ravel() for each in self.groups["adapters"]])
        return found

    def _values(self, features: Tensor) -> np.ndarray:
        with torch.no_grad():
            return called(self.value, features, self.options.value_bits)[..., 0].numpy()

    def _advantages(self, values: np.ndarray, final: np.ndarray) -> np.ndarray:
        """By the definition: A = Σ (γλ)^i δ_i to the end of the episode or of the rollout."""
        rollout, gamma, decay = self.rollout, self.options.gamma, self.options.gamma * self.options.gae_lambda
        ends = {tuple(place): value for place, value in zip(rollout.final_steps.tolist(), final, strict=True)}
        out = np.zeros(rollout.rewards.shape)
        for t, i in np.ndindex(out.shape):
            weight = 1.0
            for later in range(t, len(out)):
                after = 0.0 if rollout.terminated[later, i] else ends.get((later, i), values[later + 1, i])
                out[t, i] += weight * (float(rollout.rewards[later, i]) + gamma * after - values[later, i])
                weight *= decay
                if rollout.terminated[later, i] or rollout.truncated[later, i]:
                    break
        return out
