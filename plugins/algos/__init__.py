"""The built-in algorithms: their options and records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from bitrl.core.hookspecs import hookimpl
from bitrl.core.options import above, above_up_to, at_least, between, each_at_least, option, options
from bitrl.core.records import AlgorithmRecord
from bitrl.core.schedules import Schedule


@options
class PPOOptions:
    """Options of PPO. The defaults are the BitRL recipe (arXiv 2604.24273)."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "bitrl": {},
        "standard": {"clip_coef": 0.2, "ent_coef": 0.01, "value_learning_rate": 3e-4, "epochs": 10},
        "no-grad-clip": {"max_grad_norm": None},
    }

    preset: Literal["bitrl", "standard", "no-grad-clip"] = option(
        "bitrl", "a set of defaults: the BitRL recipe, the usual PPO settings, or the recipe without gradient clipping"
    )
    rollout_steps: int = option(2048, "environment steps per update, over all parallel environments", above(0))
    epochs: int = option(4, "passes over each rollout", above(0))
    minibatch_size: int = option(64, "samples in a gradient step", above(0))
    gamma: float = option(0.99, "discount factor", between(0, 1))
    gae_lambda: float = option(0.95, "λ of generalised advantage estimation", between(0, 1))
    clip_coef: Schedule = option(0.1, "clip range ε of the probability ratio", above(0))
    ent_coef: Schedule = option(0.05, "weight β of the entropy bonus", at_least(0))
    vf_coef: float = option(0.5, "weight of the value loss", at_least(0))
    max_grad_norm: float | None = option(0.5, "clip the gradient norm at this; none: no clipping", above(0))
    learning_rate: Schedule = option(3e-4, "Adam's learning rate for the policy", above(0))
    value_learning_rate: Schedule = option(1e-3, "Adam's learning rate for the value function", above(0))
    adapter_learning_rate: Schedule = option(
        3e-4, "Adam's learning rate for a language model's adapters (backbone.lora_rank)", above(0)
    )
    anneal: bool = option(False, "decay constant learning rates linearly to zero over the run")
    noise_hold: float = option(
        1.0,
        "mean steps for which each environment keeps its exploration noise; 1: resampled at every step",
        at_least(1),
    )
    log_std_init: float = option(0.0, "initial log standard deviation of a policy over continuous actions")
    normalise_rewards: bool = option(
        False,
        "divide rewards by the running standard deviation of the discounted return, clipped at 10; not in evaluation",
    )
    running_standardisation: bool = option(
        False,
        "standardise features, or a trainable backbone's input vectors, by the statistics of all rollouts so far; "
        "false: a frozen backbone's features only, by the first rollout",
    )
    policy_bits: int | None = option(
        None, "bits of the policy network's weights when it acts (QuaRL); unset: full precision", between(1, 16)
    )
    policy_quantisation: Literal["post-training", "actor", "aware"] = option(
        "post-training",
        "with policy_bits: quantise the trained policy for evaluation and export; or also the actor that collects "
        "rollouts, beside a learner in full precision (ActorQ); or be aware of it in both (gradients at quantised "
        "weights, straight-through)",
    )
    rollout: Literal["int8", "int4"] | None = option(
        None,
        "precision of the policy network's weights while it collects rollouts (QuRL): policy_bits and "
        "policy_quantisation=actor, but that the loss is corrected for the difference to the policy in full precision, "
        "which is what is evaluated and exported (with policy_bits: quantised after training), by torch; unset: full "
        "precision",
    )
    correction: Literal["none", "decoupled", "tis", "mis", "geometric", "k2", "k3", "acr", "mixed"] = option(
        "acr",
        "with rollout: what is done about ρ, the ratio of the full-precision policy to the one that acted. none: PPO "
        "clips the ratio to the one that acted; decoupled: weights ρ; tis: truncated at C; mis: weights ρ, samples "
        "outside of C₋ ≤ ρ ≤ C rejected; geometric, k2, k3: no weights, samples outside of C₋ ≤ ρ ≤ C, (log ρ)²/2 ≤ C, "
        "ρ − 1 − log ρ ≤ C rejected; acr: as tis, with an adaptive clipping range (QuRL's own); mixed: between tis and "
        "no weights, by the effective sample size",
    )
    correction_cap: float = option(2.0, "with rollout: C of the correction", above(0))
    correction_floor: float = option(0.5, "with rollout: C₋ of the corrections mis and geometric", at_least(0))
    value_bits: int | None = option(
        None,
        "bits of the value network's weights when it estimates values, for advantages and returns; unset: full "
        "precision",
        between(1, 16),
    )
    value_quantisation: Literal["post-update", "aware"] = option(
        "post-update",
        "with value_bits: quantise the weights after each update, or be aware of it while learning (gradients at "
        "quantised weights, straight-through)",
    )
    action_codebook: Literal["uniform", "learned"] | None = option(
        None,
        "continuous actions take one of action_bins values in each dimension: evenly spaced over its bounds, or "
        "learned by k-means from the actions of a first stage of training; unset: they are continuous",
    )
    action_bins: int = option(11, "with action_codebook: values in each dimension", between(2, 1000))
    codebook_after: float = option(
        0.25, "with a learned action_codebook: share of the run's steps that the first stage takes", between(0, 1)
    )
    hidden: tuple[int, ...] | None = option(
        None,
        "widths of the heads' hidden layers; unset: 256, 128 on a frozen backbone, none on a trainable one",
        each_at_least(1),
    )


Rollout = Literal["fp32", "bf16", "int8", "fp8", "int4", "ternary"]


@options
class LanguageAlgorithmOptions:
    """Options of reinforcement learning of a language model with quantised rollouts (QuRL, arXiv 2602.13953)."""

    rollout: Rollout | None = option(
        None, "precision of the actor that generates; unset: that of the learner, the backbone's"
    )
    correction: Literal["none", "decoupled", "tis", "mis", "geometric", "k2", "k3", "acr", "mixed", "vespo"] = option(
        "acr",
        "what corrects for the actor's precision: nothing; importance weights ρ (decoupled), truncated (tis), masked "
        "(mis), mixed by their effective sample size; rejection of sequences by the mean log-ratio (geometric), k2, "
        "k3; truncated with an adaptive clip range (acr); vespo",
    )
    correction_level: Literal["token", "sequence"] = option("token", "ratios of tokens, or of whole sequences")
    correction_cap: float = option(2.0, "the largest ratio C: truncated, or rejected, beyond it", above(0))
    correction_floor: float = option(0.5, "the smallest ratio C₋ of mis and geometric: rejected below it", at_least(0))
    uaq_scale: float = option(
        1.0,
        "invariant scale s of weights behind norms, for updates that reach the codes; 1: off, 1.5: QuRL's",
        above(0),
    )
    stochastic_rounding: bool = option(False, "round the actor's weights at random, right on average")
    quantised_learner: bool = option(
        False, "multiply in the rollout's precision when learning, too, with straight-through gradients (QaRL)"
    )
    norm_noise: Schedule | None = option(
        None, "standard deviation of noise on the actor's norms, for example exponential:5e-2:5e-4 (QeRL)", at_least(0)
    )
    clip_low: float = option(0.2, "ε below: the ratio to the learner before is clipped at 1 − ε", between(0, 1))
    clip_high: float = option(0.2, "ε above: it is clipped at 1 + ε", at_least(0))
    ratio: Literal["token", "sequence"] = option(
        "token", "that ratio of tokens, or the sequence's geometric mean (GSPO)"
    )
    negative_cap: float | None = option(
        None,
        "drop sequences with negative advantages whose mean log-ratio fell by more than this (QaRL: 0.5)",
        above(0),
    )
    aggregation: Literal["token", "sequence", "fixed-length"] = option(
        "token",
        "the loss: mean over tokens (DAPO), mean over sequences of their tokens' mean (GRPO), or sum over tokens by "
        "sequences times max_tokens (Dr. GRPO)",
    )
    kl: Literal["k1", "k2", "k3", "unbiased"] | None = option(
        None,
        "estimator of the KL divergence to the model at the start, in the loss, where the gradient of k1 is zero on "
        "average; unset: none",
    )
    kl_coef: float = option(1e-3, "its weight", at_least(0))
    temperature: float = option(1.0, "of sampling", at_least(1e-6))  # float32 holds logits divided by that
    top_k: int = option(0, "sample among so many of the likeliest tokens; 0: all", at_least(0))
    top_p: float = option(
        1.0, "sample among the likeliest tokens that together have this probability", above_up_to(0, 1)
    )
    max_tokens: int = option(128, "tokens of a completion at most", above(0))
    learning_rate: Schedule = option(1e-5, "Adam's learning rate", above(0))
    max_grad_norm: float | None = option(1.0, "clip the gradient norm at this; none: no clipping", above(0))
    epochs: int = option(1, "passes over each rollout", above(0))


@options
class GRPOOptions(LanguageAlgorithmOptions):
    """Options of GRPO."""

    group_size: int = option(8, "completions of each prompt, whose rewards are compared", at_least(2))
    normalise_std: bool = option(True, "divide advantages by the standard deviation of the group's rewards")
    minibatch_size: int | None = option(None, "prompts in a gradient step; unset: all of the rollout's", above(0))


@options
class PPOLanguageOptions(LanguageAlgorithmOptions):
    """Options of PPO for language models."""

    gamma: float = option(1.0, "discount factor of a token", between(0, 1))
    gae_lambda: float = option(
        1.0, "λ of generalised advantage estimation over tokens; below 1 it relies on the critic", between(0, 1)
    )
    value_learning_rate: Schedule = option(1e-3, "Adam's learning rate for the critic's linear head", above(0))
    value_epochs: int = option(4, "passes of the critic over each rollout", above(0))
    minibatch_size: int | None = option(None, "completions in a gradient step; unset: all of the rollout's", above(0))


@hookimpl
def bitrl_algorithms() -> Iterator[AlgorithmRecord]:
    """PPO, and GRPO and PPO for language models."""
    yield AlgorithmRecord(
        name="ppo",
        summary="proximal policy optimisation of two small heads, with the BitRL recipe",
        target="bitrl.plugins.algos.ppo:PPO",
        memory="bitrl.plugins.algos.ppo_memory:ppo",
        options=PPOOptions,
        learns_from=("features", "gradients"),
        critic_backbone=True,
        commands=True,
        actions=("Discrete", "Box", "MultiDiscrete", "MultiBinary", "Dict", "Tuple"),
        bootstraps=True,
    )
    yield AlgorithmRecord(
        name="grpo",
        summary="group relative policy optimisation of a language model, with quantised rollouts (QuRL)",
        target="bitrl.plugins.algos.grpo:GRPO",
        options=GRPOOptions,
        learns_from=("generation",),
        actions=("Text",),
        bootstraps=False,
        group_option="group_size",
    )
    yield AlgorithmRecord(
        name="ppo-lm",
        summary="proximal policy optimisation of a language model with a critic of its tokens, with quantised rollouts",
        target="bitrl.plugins.algos.ppo_lm:PPOLanguage",
        options=PPOLanguageOptions,
        learns_from=("generation",),
        actions=("Text",),
        bootstraps=False,
    )
