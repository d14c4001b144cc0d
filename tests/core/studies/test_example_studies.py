"""The studies in examples/studies, and the presets that they are about: each arm is the change it is named after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bitrl.core.config import parse_assignments, resolve
from bitrl.core.errors import UsageError
from bitrl.core.studies.design import build_design, parse_variation, read_design

STUDIES = Path(__file__).parents[3] / "examples" / "studies"


def changes_of(name: str) -> dict[str, dict[str, Any]]:
    """Arm → the options in which it differs from the first one, of algorithm and run, as resolved."""
    base, *others = build_design(read_design(STUDIES / name)).arms
    assert base.label == "base"

    def options(arm: Any) -> dict[str, Any]:
        plain = arm.config(0).as_dict()
        return {f"{part}.{key}": value for part in ("run", "algo") for key, value in plain[part].items()}

    wanted = options(base)
    return {arm.label: {k: v for k, v in options(arm).items() if v != wanted[k]} for arm in others}


def test_the_recipe_is_taken_apart_change_by_change() -> None:
    """SCIENCE's recipe: clip 0.1, entropy 0.05, norm 0.5, rates 3e-4 and 1e-3, 2048 steps, 4 epochs of 64."""
    first = build_design(read_design(STUDIES / "bitrl-recipe.toml")).arms[0].config(0).as_dict()["algo"]
    recipe = {"clip_coef": 0.1, "ent_coef": 0.05, "max_grad_norm": 0.5, "learning_rate": 3e-4, "gae_lambda": 0.95}
    recipe |= {"value_learning_rate": 1e-3, "rollout_steps": 2048, "epochs": 4, "minibatch_size": 64, "gamma": 0.99}
    assert {name: first[name] for name in recipe} == recipe
    single = {"algo.clip_coef": 0.2, "algo.ent_coef": 0.01, "algo.value_learning_rate": 3e-4, "algo.epochs": 10}
    found = changes_of("bitrl-recipe.toml")
    assert found == {
        **{f"{path}={value}": {path: value} for path, value in single.items()},
        "algo.max_grad_norm=none": {"algo.max_grad_norm": "none"},
        "standard": {"algo.preset": "standard", **single},
        "hybrid": {"run.critic_backbone": "int8"},
        "value-only": {"run.backbone": "bf16", "run.critic_backbone": "bitnet"},
    }


def test_bits_are_taken_part_by_part() -> None:
    found = changes_of("few-bits.toml")
    for name, (bits, how) in {"policy-aware-2": (2, "aware"), "actor-8": (8, "actor"), "actor-4": (4, "actor")}.items():
        assert found.pop(name) == {"algo.policy_bits": bits, "algo.policy_quantisation": how}
    assert found.pop("value-aware-4") == {"algo.value_bits": 4, "algo.value_quantisation": "aware"}
    single = {"algo.policy_bits": (8, 4, 2), "algo.value_bits": (8, 4), "algo.action_codebook": ("uniform", "learned")}
    assert found == {f"{path}={value}": {path: value} for path, values in single.items() for value in values}


@pytest.mark.parametrize("env", ["CartPole-v1", "HalfCheetah-v5"])
def test_a_preset_and_a_single_option_compose(env: str) -> None:
    """The option wins over the preset, and the preset over what is tuned for the environment."""

    def algo(*assignments: str) -> Any:
        values: dict[str, Any] = parse_assignments(assignments)
        typed = {part: frozenset(section) for part, section in values.items()}
        return resolve({**values, "run": {"env": env}}, typed).algo_options

    standard = algo("algo.preset=standard")
    both = algo("algo.preset=standard", "algo.clip_coef=0.3")
    assert (standard.clip_coef, standard.ent_coef, standard.epochs, standard.value_learning_rate) == (
        0.2,
        0.01,
        10,
        3e-4,
    )
    assert (both.clip_coef, both.ent_coef, both.epochs, both.value_learning_rate) == (0.3, 0.01, 10, 3e-4)
    unclipped = algo("algo.preset=no-grad-clip", "algo.epochs=7")
    assert (unclipped.max_grad_norm, unclipped.epochs, unclipped.clip_coef, unclipped.ent_coef) == (None, 7, 0.1, 0.05)
    assert algo("algo.max_grad_norm=1", "algo.preset=no-grad-clip").max_grad_norm == 1


def test_action_codebooks_are_an_axis_of_a_study() -> None:
    [(path, values)] = [parse_variation("algo.action_codebook=none,uniform,learned")]
    arms = build_design({"base": {"run": {"env": "Pendulum-v1"}}, "grid": {path: values}}).arms
    assert [arm.config(0).algo_options.action_codebook for arm in arms] == [None, "uniform", "learned"]
    with pytest.raises(
        UsageError, match=r'algo\.action_codebook: expected one of "uniform", "learned" or none, got "k"'
    ):
        build_design({"grid": {path: ["k"]}})
