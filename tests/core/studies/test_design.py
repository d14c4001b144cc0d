"""A study's file → its arms and cells."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bitrl.core.errors import UsageError
from bitrl.core.studies.design import build_design, parse_seeds, parse_variation, read_design
from bitrl.core.studies.results import result_of

HYBRID = {"name": "hybrid", "backbone": "bitnet", "critic_backbone": "int8"}


def names(data: dict[str, Any]) -> list[str]:
    return [cell.name for cell in build_design(data).cells]


def test_a_grid_has_every_combination_with_every_seed() -> None:
    data = {
        "study": {"seeds": "0-1"},
        "grid": {"env": ["CartPole-v1", "Acrobot-v1"], "backbone": ["mlp", HYBRID], "algo.clip_coef": [0.1, 0.2]},
    }
    arms = [
        f"{env} {backbone} algo.clip_coef={clip}"
        for env in ("CartPole-v1", "Acrobot-v1")
        for backbone in ("backbone=mlp", "hybrid")
        for clip in (0.1, 0.2)
    ]
    assert names(data) == [f"{arm} seed {seed}" for seed in (0, 1) for arm in arms]
    hybrid = build_design(data).arms[2].config(3)
    assert (hybrid.run.backbone, hybrid.run.critic_backbone, hybrid.run.seed) == ("bitnet", "int8", 3)


def test_one_at_a_time_changes_one_option_beside_the_unchanged_arm() -> None:
    data = {
        "base": {"run": {"backbone": "mlp"}, "algo": {"clip_coef": 0.15}},
        "one-at-a-time": {"algo.clip_coef": [0.3], "algo": {"ent_coef": [0.0, 0.1]}},
    }
    design = build_design(data)
    assert [arm.label for arm in design.arms] == [
        "base",
        "algo.clip_coef=0.3",
        "algo.ent_coef=0.0",
        "algo.ent_coef=0.1",
    ]
    options = [arm.config(0).algo_options for arm in design.arms]
    assert [float(each.clip_coef) for each in options] == [0.15, 0.3, 0.15, 0.15]
    assert [float(each.ent_coef) for each in options[2:]] == [0.0, 0.1]


def test_named_arms_are_made_in_each_combination() -> None:
    data = {
        "grid": {"env": ["CartPole-v1", "Acrobot-v1"]},
        "arms": {"plain": {"backbone": "mlp"}, "wide": {"backbone": "mlp", "algo.hidden": [64, 64]}},
    }
    assert names(data) == [f"{env} {arm} seed 0" for env in ("CartPole-v1", "Acrobot-v1") for arm in ("plain", "wide")]


def test_options_of_the_base_that_a_component_lacks_are_left_out_and_said() -> None:
    data = {"base": {"backbone": {"layers": 1}}, "grid": {"backbone": ["bitnet", "mlp"]}}
    design = build_design(data)
    assert design.ignored == ("CartPole-v1 backbone=mlp: backbone.layers",)
    assert design.arms[0].config(0).backbone_options.layers == 1


def test_a_changed_setting_is_another_directory_and_the_same_one_is_not() -> None:
    def folder(steps: int) -> str:
        return build_design({"base": {"run": {"steps": steps}}}).arms[0].folder

    assert folder(100) == folder(100) != folder(200)


WORDS = {"env": "reverse-word", "backbone": "bitnet", "algo": "grpo"}


def test_an_option_of_the_environment_makes_a_task_in_which_arms_are_compared() -> None:
    data = {
        "study": {"baseline": "algo.max_tokens=8"},
        "base": {"run": WORDS},
        "grid": {"env.length": [4, 5], "algo.max_tokens": [8, 9]},
    }
    arms = build_design(data).arms
    assert [arm.label for arm in arms] == ["algo.max_tokens=8", "algo.max_tokens=9"] * 2
    assert [arm.name for arm in arms[:2]] == [
        f"reverse-word env.length=4 algo.max_tokens={tokens}" for tokens in (8, 9)
    ]
    assert len({arm.folder for arm in arms}) == 4


@pytest.mark.parametrize(
    ("env", "options", "task"),
    [
        ("Reacher-v5", {"seed_episodes": "none"}, "Reacher-v5"),
        ("Reacher-v5", {}, "Reacher-v5"),
        ("Reacher-v5", {"seed_episodes": True}, "Reacher-v5 (seed_episodes=True)"),
        ("reverse-word", {"length": 6, "partial": True}, "reverse-word"),
        ("reverse-word", {"length": 5, "partial": True}, "reverse-word (length=5)"),
    ],
)
def test_a_task_is_called_by_the_options_that_are_not_the_defaults(
    env: str, options: dict[str, Any], task: str
) -> None:
    assert result_of(Path("run"), {"run": {"env": env}, "env": options}).task == task


def test_arms_that_are_one_configuration_are_said() -> None:
    data = {"base": {"run": {"backbone": "mlp"}}, "one-at-a-time": {"algo.gamma": ["0.9", "0.90", 0.99]}}
    assert build_design(data).same == (
        "CartPole-v1 algo.gamma=0.90 is the same configuration as CartPole-v1 algo.gamma=0.9: both are trained",
        "CartPole-v1 algo.gamma=0.99 is the same configuration as CartPole-v1 base: both are trained",
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"grid": {"algo.clpi_coef": [0.1]}}, "did you mean"),
        ({"base": {"algo": {"nothing": 1}}}, "base.algo.nothing"),
        ({"grid": {"backbone": []}}, "backbone: expected a list of values to compare, got an empty list"),
        ({"grid": {"backbone": "mlp"}}, "expected a list"),
        ({"grid": {"backbone": ["mlp", "mlp"]}}, "once"),
        ({"grid": {"backbone": [{"backbone": "mlp"}]}}, "expected a name"),
        ({"grid": {"backbone": ["mlp"], "run.backbone": ["bitnet"]}}, "run.backbone: is varied as backbone, too"),
        (
            {"base": {"run": WORDS}, "one-at-a-time": {"env.length": [6]}},
            "reverse-word env.length=6: is the same as reverse-word base: remove one of the two",
        ),
        ({"base": {"backbone": "mlp", "run": {"backbone": "bitnet"}}}, "run.backbone: is set twice"),
        ({"arms": {"x": {"steps": 10, "run.steps": 20}}}, "run.steps: is set twice"),
        ({"grid": {"clip": [0.1]}}, "part.option"),
        ({"grid": {"nothing.clip": [0.1]}}, "unknown part"),
        ({"grid": {"run.seed": [1, 2]}}, "seeds"),
        ({"grid": {"backbone": ["mlp"], "serializer": ["json"]}}, "CartPole-v1 base: serializer"),
        ({"grid": {"env": ["CartPole-v1", "CartPol-v1"]}}, "did you mean"),
        ({"study": {"seed": [1]}}, "study.seeds"),
        ({"study": {"baseline": "bakbone=mlp"}, "grid": {"backbone": ["mlp", "bitnet"]}}, "did you mean"),
        ({"study": {"baseline": 3}}, 'unknown arm "3"'),
        ({"study": {"baseline": [3]}}, "unknown arm"),
        ({"arms": {"plain": 3}}, "arms.plain: expected a section"),
        ({"arms": {"plain": ["mlp"]}}, "arms.plain: expected a section"),
        ({"arms": {" ": {"backbone": "mlp"}}}, "an arm needs a name"),
        ({"one-at-a-time": {"algo.ent_coef": [0.1]}, "arms": {"base": {"algo.gamma": 0.9}}}, "two arms"),
        ({"base": {"run": {"eval_episodes": 0}}}, "compares evaluations"),
        ({"study": {"seeds": []}}, "at least one"),
        ({"study": {"seeds": "4-1"}}, "smaller number first"),
        ({"study": {"seeds": "7,4-1"}}, "smaller number first"),
        ({"study": {"seeds": "0-99999999999"}}, "at most 10,000"),
        ({"study": {"seeds": [1, 1]}}, "once"),
        ({"study": {"seeds": [-1]}}, "expected a list of integers"),
        ({"study": {"seeds": "a"}}, "0-4"),
    ],
)
def test_what_cannot_be_composed_is_refused_in_words(data: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        build_design(data)


@pytest.mark.parametrize(
    "text",
    [
        "[grid",
        "[nothing]\n",
        "grid = 3\n",
        "\x00",
        "base.run.steps = 2020-01-01\n",
        '[grid]\n"algo.gamma" = [12:00:00]\n',
        '[grid]\n"algo.hidden" = [[2020-01-01]]\n',
        '[grid]\nx = [{name = "a", "algo.gamma" = 2020-01-01}]\n',
        '[grid]\nx = [{name = "a", algo = {gamma = [{y = 2020-01-01}]}}]\n',
    ],
)
def test_a_file_that_is_no_study_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"grid\.toml"):
        read_design(path)


def test_the_file_in_the_docs_is_a_study() -> None:
    page = Path(__file__).parents[3].joinpath("docs", "studies.md").read_text(encoding="utf-8")
    [text] = re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S)
    design = build_design(tomllib.loads(text))
    assert len(design.arms) == 2 * 3 * (1 + 2 + 1)
    assert design.baseline == "backbone=bf16"


def test_the_baseline_may_be_an_arm_that_is_called_by_a_number() -> None:
    """TOML reads 5 as a number, and [arms.5] as a text."""
    arms = {"a": {"algo.gamma": 0.9}, "5": {"algo.gamma": 0.8}}
    design = build_design({"study": {"baseline": 5}, "base": {"run": {"backbone": "mlp"}}, "arms": arms})
    assert design.baseline == design.arms[1].label


@pytest.mark.parametrize("values", ["[8,16", "8,16]", "[[8,8],[16]]"])
def test_a_bracket_that_is_not_closed_makes_no_other_axis(values: str) -> None:
    with pytest.raises(UsageError, match="brackets do not match"):
        parse_variation(f"algo.hidden={values}")


def test_seeds_and_variations_are_read_as_typed() -> None:
    assert parse_seeds("0-2, 7") == (0, 1, 2, 7)
    assert parse_seeds([3, 1]) == (3, 1)
    assert parse_variation("algo.hidden=[64,64],[128]") == ("algo.hidden", ["[64,64]", "[128]"])
    assert parse_variation("backbone=bitnet,mlp") == ("backbone", ["bitnet", "mlp"])
    data = {"base": {"run": {"backbone": "mlp"}}, "grid": {"algo.hidden": ["[64,64]", "8"], "algo.gamma": ["0.9"]}}
    options = [arm.config(0).algo_options for arm in build_design(data).arms]
    assert [each.hidden for each in options] == [(64, 64), (8,)]
    assert options[0].gamma == 0.9
