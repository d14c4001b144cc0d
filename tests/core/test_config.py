"""Configurations: where a value comes from, what fits together, and the way to a file and back."""

from __future__ import annotations

import contextlib
import tomllib
import types
from pathlib import Path
from typing import Any, ClassVar

import attrs
import gymnasium
import pytest
import tomli_w
from conformance_helpers import target

import bitrl
from bitrl.core import config
from bitrl.core.config import find_environment, parse_assignments, read_toml, resolve
from bitrl.core.errors import UsageError
from bitrl.core.registry import Entry, Registry, registry


@bitrl.options
class OwnOptions:
    """Options of the test's algorithm."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {}

    limit: float | None = bitrl.option(0.5, "a limit, or none")


BOTH = ("features", "gradients")


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The built-in components, and a few of the test's own."""

    def bitrl_environments() -> Any:
        defaults = {
            "run.steps": 777,
            "serializer.decimals": 5,
            "backbone.layers": 3,
            "critic_backbone.pooling": "last",
        }
        tuned = {
            "ppo": {"algo.clip_coef": 0.3, "algo.max_grad_norm": 9.0, "algo.vf_coef": 0.7},
            "own": {"run.num_envs": 2},
        }
        yield bitrl.EnvironmentRecord(
            name="Tuned-v0", summary="", target="nowhere:Nothing", defaults=defaults, tuned=tuned
        )

    def bitrl_algorithms() -> Any:
        tuned = {"Tuned-v0": {"algo.limit": 0.25, "run.steps": 99}, "CartPole-v1": {"algo.limit": 0.75}}
        yield bitrl.AlgorithmRecord(
            name="own", summary="", target="nowhere:Nothing", options=OwnOptions, tuned=tuned, learns_from=BOTH
        )
        for kind in BOTH:
            name = f"{kind}-only"
            yield bitrl.AlgorithmRecord(name=name, summary="", target="nowhere:Nothing", learns_from=(kind,))

    def bitrl_backbones() -> Any:
        yield bitrl.BackboneRecord(name="both", summary="", target="nowhere:Nothing", accepts=("vector", "text"))
        yield bitrl.BackboneRecord(name="mlp", summary="", target="nowhere:Nothing", accepts=("vector",))

    plugin = types.SimpleNamespace(
        bitrl_environments=bitrl.hookimpl(bitrl_environments),
        bitrl_algorithms=bitrl.hookimpl(bitrl_algorithms),
        bitrl_backbones=bitrl.hookimpl(bitrl_backbones),
    )
    registry = Registry()
    registry.add_installed("bitrl")
    registry.add(plugin, "test-pack")
    assert registry.problems == []
    monkeypatch.setattr(config, "registry", lambda: registry)
    return registry


CONFIGURATIONS: list[dict[str, dict[str, Any]]] = [
    {},
    {"run": {"env": "Acrobot-v1", "seed": 3}},
    {"run": {"backbone": "mlp"}, "backbone": {"hidden": [8, 8]}, "algo": {"preset": "standard", "hidden": []}},
    {"algo": {"max_grad_norm": None}},
    {"serializer": {"decimals": 2}, "backbone": {"layers": 2, "pooling": "last"}},
    {"run": {"critic_backbone": "int8"}, "critic_backbone": {"layers": 2}},
]


@pytest.mark.parametrize("values", CONFIGURATIONS)
def test_a_configuration_written_to_toml_is_the_same_when_read(values: dict[str, dict[str, Any]], tmp_path: Path):
    resolved = resolve(values)
    file = tmp_path / "config.toml"
    file.write_text(tomli_w.dumps({**resolved.as_dict(), "provenance": {"versions": {"bitrl": "0"}}}))
    assert resolve(read_toml(file)) == resolved


def test_none_is_kept_where_the_environment_sets_something_else(registered: Registry):
    resolved = resolve({"run": {"env": "Tuned-v0"}, "algo": {"max_grad_norm": None}, "serializer": {"decimals": None}})
    again = resolve(tomllib.loads(tomli_w.dumps(resolved.as_dict())))
    assert again.algo_options.max_grad_norm is None
    assert again.serializer_options.decimals is None
    assert again == resolved


def test_the_users_values_win_over_the_environments_and_those_over_the_defaults(registered: Registry):
    assert resolve({}).run.steps == 100_000
    assert resolve({"run": {"env": "Tuned-v0"}}).run.steps == 777
    assert resolve({"run": {"env": "Tuned-v0", "steps": 5}}).run.steps == 5
    assert resolve({"run": {"env": "Tuned-v0"}}).algo_options.clip_coef == 0.3
    assert resolve({"run": {"env": "Tuned-v0"}, "algo": {"clip_coef": 0.2}}).algo_options.clip_coef == 0.2


def test_a_preset_or_another_algorithm_is_not_mixed_with_the_environments_settings(registered: Registry):
    standard = resolve({"run": {"env": "Tuned-v0"}, "algo": {"preset": "standard"}}).algo_options
    assert (standard.clip_coef, standard.ent_coef, standard.epochs) == (0.2, 0.01, 10)
    assert resolve({"run": {"env": "Tuned-v0"}, "algo": {"preset": "bitrl"}}).algo_options.clip_coef == 0.1
    assert standard.vf_coef == 0.7  # of which no preset says anything


def test_each_algorithm_has_settings_of_its_own_for_an_environment(registered: Registry):
    own = resolve({"run": {"env": "Tuned-v0", "algo": "own"}})
    assert own.algo_options == OwnOptions(limit=0.25)
    assert (own.run.num_envs, own.run.steps) == (2, 99)  # by the environment's record, and by the algorithm's
    assert resolve({"run": {"algo": "own"}}).algo_options.limit == 0.75
    assert resolve({"run": {"env": "Pendulum-v1", "algo": "own"}}).algo_options.limit == 0.5
    assert resolve({"run": {"env": "Tuned-v0", "algo": "own"}, "algo": {"limit": 1.0}}).algo_options.limit == 1.0
    assert resolve({"run": {"env": "Tuned-v0"}}).run.num_envs == 16


def test_how_an_environment_is_explored_stays_whatever_the_preset_and_goes_with_another_algorithm(registered: Registry):
    def bitrl_algorithms() -> Any:
        yield bitrl.AlgorithmRecord(name="ppo", summary="", target="nowhere:Nothing", options=OwnOptions)

    assert resolve({"run": {"env": "MountainCar-v0"}}).algo_options.noise_hold == 20
    assert resolve({"run": {"env": "MountainCar-v0"}, "algo": {"preset": "standard"}}).algo_options.noise_hold == 20
    assert resolve({"run": {"env": "MountainCar-v0"}, "algo": {"noise_hold": 3}}).algo_options.noise_hold == 3
    assert resolve({"run": {"env": "MountainCar-v0", "algo": "own"}}).algo_options == OwnOptions()
    registered.add(types.SimpleNamespace(bitrl_algorithms=bitrl.hookimpl(bitrl_algorithms)), "other")
    assert resolve({"run": {"env": "MountainCar-v0", "algo": "other:ppo"}}).algo_options == OwnOptions()
    assert resolve({"run": {"env": "MountainCar-v0", "algo": "bitrl:ppo"}}).algo_options.noise_hold == 20


def test_an_environments_setting_that_the_chosen_component_does_not_have_is_left_out(registered: Registry):
    resolved = resolve({"run": {"env": "Tuned-v0", "backbone": "bitrl:mlp"}})
    assert resolved.serializer.name == "vector"


def test_an_option_that_the_chosen_component_does_not_have_is_refused_if_the_user_set_it():
    with pytest.raises(UsageError, match=r'unknown option "serializer.decimals"'):
        resolve({"run": {"backbone": "mlp"}, "serializer": {"decimals": 2}})


@pytest.mark.parametrize(
    ("backbone", "serializer"), [("bitnet", "json"), ("bitrl:mlp", "vector"), ("both", "json"), (None, "json")]
)
def test_an_unset_serializer_is_json_for_texts_and_vector_for_vectors(
    registered: Registry, backbone: str | None, serializer: str
):
    resolved = resolve({"run": {} if backbone is None else {"backbone": backbone}})
    assert resolved.serializer.name == resolved.run.serializer == serializer


@pytest.mark.parametrize("algo", ["grpo", "ppo-lm"])
def test_an_unset_serializer_passes_prompts_on_to_an_algorithm_that_answers_in_text(algo: str):
    own = {"env": "tasks:Doubled", "algo": algo}
    assert resolve({"run": own | {"backbone": "fp32"}}).run.serializer == "prompt"
    assert resolve({"run": own | {"backbone": "fp32", "serializer": "json"}}).run.serializer == "json"
    assert resolve({"run": own | {"algo": "ppo"}}).run.serializer == "values"


def test_a_serializer_and_backbone_that_do_not_fit_are_refused_with_those_that_do():
    with pytest.raises(UsageError) as caught:
        resolve({"run": {"backbone": "mlp", "serializer": "json"}})
    message = str(caught.value)
    assert message.startswith(
        'serializer "json" emits text, but backbone "mlp" accepts vector: use --serializer hash or vector'
    )
    assert "or --backbone bf16 or bitnet or" in message
    with pytest.raises(UsageError) as caught:
        resolve({"run": {"backbone": "bitnet", "serializer": "vector"}})
    assert str(caught.value) == (
        'serializer "vector" emits vector, but backbone "bitnet" accepts text: '
        "use --serializer bins or codes or compact or grid or json or natural or prompt or template or values, "
        "or --backbone mlp or random-projection"
    )


def test_the_critics_backbone_has_options_of_its_own(registered: Registry):
    values = {"run": {"critic_backbone": "int8"}, "backbone": {"layers": 2}, "critic_backbone": {"pooling": "last"}}
    resolved = resolve(values)
    assert resolved.critic_backbone is not None
    assert resolved.critic_backbone.name == "int8"
    assert (resolved.backbone_options.layers, resolved.backbone_options.pooling) == (2, None)
    assert (resolved.critic_backbone_options.layers, resolved.critic_backbone_options.pooling) == (1, "last")
    assert resolve({}).critic_backbone is resolve({}).critic_backbone_options is None


def test_what_an_environment_asks_of_a_backbone_it_asks_of_the_critics_too(registered: Registry):
    resolved = resolve({"run": {"env": "Tuned-v0", "critic_backbone": "int8"}})
    assert (resolved.backbone_options.layers, resolved.critic_backbone_options.layers) == (3, 3)
    assert resolved.critic_backbone_options.pooling == "last"
    assert resolved.backbone_options.pooling is None
    mine = resolve({"run": {"env": "Tuned-v0", "critic_backbone": "int8"}, "critic_backbone": {"layers": 2}})
    assert (mine.backbone_options.layers, mine.critic_backbone_options.layers) == (3, 2)


@pytest.mark.parametrize(
    ("backbone", "critic", "serializer"), [("both", "bitrl:mlp", "vector"), ("bitrl:mlp", "both", "vector")]
)
def test_an_unset_serializer_is_one_that_both_backbones_read(
    registered: Registry, backbone: str, critic: str, serializer: str
):
    assert resolve({"run": {"backbone": backbone, "critic_backbone": critic}}).serializer.name == serializer


def test_a_critics_backbone_that_cannot_read_the_policys_texts_is_refused_with_those_that_can(registered: Registry):
    with pytest.raises(UsageError) as caught:
        resolve({"run": {"backbone": "bitnet", "critic_backbone": "bitrl:mlp"}})
    assert str(caught.value) == (
        'critic backbone "mlp" accepts vector, but serializer "json", also used by backbone "bitnet", emits '
        "text: use --critic-backbone bf16 or bitnet or both or fp32 or int4 or int8"
    )
    with pytest.raises(UsageError) as caught:
        resolve({"run": {"backbone": "both", "critic_backbone": "int8", "serializer": "vector"}})
    assert str(caught.value).endswith(
        ", or --serializer bins or codes or compact or grid or json or natural or prompt or template or values"
    )


def test_an_algorithm_without_a_critic_of_its_own_takes_no_backbone_for_it(registered: Registry):
    with pytest.raises(UsageError) as caught:
        resolve({"run": {"algo": "own", "critic_backbone": "int8"}})
    assert str(caught.value) == (
        'algorithm "own" does not support a separate critic backbone: remove --critic-backbone, or use --algo ppo'
    )


def test_a_name_that_two_packages_have_is_refused_until_one_is_picked(registered: Registry):
    with pytest.raises(UsageError, match='choose "bitrl:mlp" or "test-pack:mlp"'):
        resolve({"run": {"backbone": "mlp"}})
    assert resolve({"run": {"backbone": "bitrl:mlp"}}).backbone.target == "bitrl.plugins.backbones.mlp:MLP"
    assert resolve({"run": {"backbone": "test-pack:mlp"}}).backbone.target == "nowhere:Nothing"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"run": {"algo": "pp0"}}, 'unknown algorithm "pp0": did you mean "ppo"?'),
        ({"run": {"backbone": "bitnte"}}, 'unknown backbone "bitnte": did you mean "bitnet"?'),
        ({"run": {"critic_backbone": "intt8"}}, 'unknown backbone "intt8": did you mean "int8"?'),
        ({"critic_backbone": {"layers": 2}}, "critic_backbone.layers: no critic backbone is chosen"),
        ({"run": {"env": "CartPoel-v1"}}, 'unknown environment "CartPoel-v1": did you mean "CartPole-v1"'),
        ({"run": {"step": 3}}, 'unknown option "run.step": did you mean "run.steps"'),
        (
            {"algo": {"clip_coef": -1}},
            "algo.clip_coef: expected a number above 0 (or linear:START:END, cosine:START:END), got -1.0",
        ),
        ({"algos": {}}, 'unknown part "algos": did you mean "algo"?'),
    ],
)
def test_a_mistake_is_found_before_anything_is_built(values: dict[str, dict[str, Any]], message: str):
    with pytest.raises(UsageError) as caught:
        resolve(values)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_gymnasium_id_that_no_plugin_names_is_an_environment_too():
    resolved = resolve({"run": {"env": "Pendulum-v1"}})
    assert (resolved.environment.name, resolved.run.env) == ("gymnasium", "Pendulum-v1")


def test_typed_values_are_converted_and_others_are_not():
    values = {"algo": {"clip_coef": "0.2"}}
    assert resolve(values, {"algo": frozenset({"clip_coef"})}).algo_options.clip_coef == 0.2
    with pytest.raises(UsageError, match=r'algo.clip_coef: expected a number above 0 .*, got "0.2"'):
        resolve(values)


def test_every_option_of_every_part_is_written_out():
    resolved = resolve({})
    written = resolved.as_dict()
    assert list(written) == [part for part in config.PARTS if part != "critic_backbone"]
    assert set(written["algo"]) == set(attrs.fields_dict(type(resolved.algo_options)))
    assert list(resolve({"run": {"critic_backbone": "int8"}}).as_dict()) == list(config.PARTS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"steps = 3\n", "steps is outside any section: put it under one of [run], [env]"),
        (b"[rnu]\nsteps = 3\n", "unknown section [rnu]: the sections are [run]"),
        (b"[run\n", "not a TOML file: "),
        (b"\xff\xfe", "not a TOML file: "),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_by_name(content: bytes, message: str, tmp_path: Path):
    file = tmp_path / "c.toml"
    file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_toml(file)
    assert str(caught.value).startswith(f"{file}: {message}")


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_toml(tmp_path / "none.toml")


def test_assignments_are_split_at_the_first_dot_and_equals_sign():
    assert parse_assignments(("algo.clip_coef=0.2", "backbone.model=a=b.gguf", "algo.hidden=")) == {
        "algo": {"clip_coef": "0.2", "hidden": ""},
        "backbone": {"model": "a=b.gguf"},
    }


@pytest.mark.parametrize("assignment", ["clip_coef=0.2", "algo.clip_coef", "algo.=1", "=", ""])
def test_an_assignment_of_another_form_is_refused_with_an_example(assignment: str):
    with pytest.raises(UsageError, match=r"expected part.option=value, for example"):
        parse_assignments((assignment,))


def test_an_assignment_to_an_unknown_part_gets_the_nearest_one():
    with pytest.raises(UsageError, match='unknown part "alog": did you mean "algo"'):
        parse_assignments(("alog.clip_coef=0.2",))


def test_a_backbone_that_learns_needs_an_algorithm_that_trains_it(registered: Registry):
    lora = {"backbone": {"lora_rank": 4}}
    assert resolve(lora).backbone.trains(resolve(lora).backbone_options)
    features_only = {"run": {"algo": "features-only"}}
    assert resolve(features_only).algorithm.learns_from == ("features",)
    for values, expected in [
        (
            {**features_only, **lora},
            'algorithm "features-only" learns from features, but backbone "bitnet" provides gradients and generation: '
            "remove backbone.lora_rank, or use --backbone ",
        ),
        (
            {"run": {"algo": "features-only", "backbone": "bitrl:mlp"}},
            'algorithm "features-only" learns from features, but backbone "mlp" provides gradients: use --backbone ',
        ),
        (
            {"run": {"algo": "gradients-only"}},
            'algorithm "gradients-only" learns from gradients, which backbone "bitnet" provides only with an option: '
            "set -o backbone.lora_rank=VALUE",
        ),
    ]:
        with pytest.raises(UsageError) as refused:
            resolve(values)
        assert str(refused.value).startswith(expected)


@pytest.mark.parametrize(("name", "value"), [("pooling", "last"), ("projection", 64), ("chunk", 4)])
@pytest.mark.parametrize("algo", ["grpo", "ppo-lm"])
def test_options_of_features_are_refused_where_text_is_generated(algo: str, name: str, value: Any):
    generating = {"run": {"algo": algo, "env": "addition"}, "backbone": {"layers": 2, "lora_rank": 4}}
    assert resolve(generating).backbone_options.layers == 2
    with pytest.raises(UsageError, match=rf'backbone\.{name} shapes the features of a text, and algorithm "{algo}"'):
        resolve({**generating, "backbone": {name: value}})


def test_a_critics_own_language_model_stays_frozen(registered: Registry):
    both = {"run": {"critic_backbone": "int8"}, "backbone": {"lora_rank": 4}}
    assert resolve(both).critic_backbone_options.lora_rank is None
    with pytest.raises(UsageError, match=r"critic_backbone\.lora_rank: a critic's own language model stays frozen"):
        resolve({**both, "critic_backbone": {"lora_rank": 4}})


def test_a_default_that_a_component_does_not_have_is_told_once_and_not_in_the_configuration_of_a_run(
    registered: Registry, capsys: pytest.CaptureFixture[str]
):
    resolve({"run": {"env": "Tuned-v0"}})
    assert capsys.readouterr().err == ""
    chosen = {"env": "Tuned-v0", "backbone": "bitrl:mlp", "serializer": "vector"}
    resolved = resolve({"run": chosen})
    assert capsys.readouterr().err.splitlines() == [
        "environment Tuned-v0 sets serializer.decimals, an option that vector does not have: it is ignored",
        "environment Tuned-v0 sets backbone.layers, an option that bitrl:mlp does not have: it is ignored",
    ]
    resolve({"run": chosen})
    registered._reported.clear()
    resolve(resolved.as_dict(), saved=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("env", ["CartPole-v1", "MountainCar-v0", "HalfCheetah-v5", "BabyAI-GoToRedBall-v0"])
@pytest.mark.parametrize("backbone", ["bitnet", "mlp"])
def test_built_in_components_say_nothing(env: str, backbone: str, capsys: pytest.CaptureFixture[str]):
    with contextlib.suppress(UsageError):  # a grid is no vector
        resolve({"run": {"env": env, "backbone": backbone}})
    assert capsys.readouterr().err == ""


def test_a_plugin_with_the_name_of_a_built_in_component_spoils_no_run(
    registered: Registry, capsys: pytest.CaptureFixture[str]
):
    plugin = types.ModuleType("plugin")
    record = bitrl.SerializerRecord(name="json", summary="", target="nowhere:Nothing")
    plugin.bitrl_serializers = bitrl.hookimpl(lambda: [record])  # type: ignore[attr-defined]
    registered.add(plugin, "pack")
    resolved = resolve({})
    assert (resolved.run.serializer, resolved.serializer.target) == ("json", "bitrl.plugins.serializers.json:JSON")
    assert capsys.readouterr().err == ""
    assert resolve(resolved.as_dict(), saved=True).serializer is resolved.serializer
    with pytest.raises(UsageError, match='choose "bitrl:json" or "pack:json"'):
        resolve({"run": {"serializer": "json"}})
    assert resolve({"run": {"serializer": "pack:json"}}).serializer is record


class Levers(gymnasium.Env):
    """Two levers to set in every step."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.MultiDiscrete([2, 3])


class LeversEnvironment(bitrl.Environment):
    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        return Levers()


def test_an_action_space_that_an_algorithm_does_not_support_is_refused_before_training(
    registered: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plugin = types.ModuleType("plugin")
    levers = bitrl.EnvironmentRecord(name="Levers-v0", summary="", target=target(LeversEnvironment))
    plugin.bitrl_environments = bitrl.hookimpl(lambda: [levers])  # type: ignore[attr-defined]

    able = bitrl.AlgorithmRecord(name="able", summary="", target="a:b", learns_from=BOTH, actions=("Box", "Discrete"))
    plugin.bitrl_algorithms = bitrl.hookimpl(lambda: [able])  # type: ignore[attr-defined]
    registered.add(plugin, "pack")

    def refusal(algorithm: str) -> str:
        with pytest.raises(UsageError) as refused:
            bitrl.run("Levers-v0", backbone="bitrl:mlp", algo=algorithm, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()
        return str(refused.value)

    begin = 'algorithm "able" supports Box and Discrete actions, but those of Levers-v0 are MultiDiscrete: '
    assert refusal("able") == f"{begin}use --algo ppo"
    monkeypatch.setattr(Levers, "action_space", gymnasium.spaces.Sequence(gymnasium.spaces.Discrete(2)))
    begin = (
        'algorithm "ppo" supports Discrete and Box and MultiDiscrete and MultiBinary and Dict and Tuple actions, but '
        "those of Levers-v0 are Sequence: "
    )
    assert refusal("ppo") == f"{begin}no installed algorithm supports them in this version"


def test_an_earlier_name_of_an_environment_finds_it(monkeypatch, capsys):
    new = bitrl.EnvironmentRecord(name="New-v0", summary="", target="a:B", aliases={"Old-v0": "is spelt otherwise"})
    monkeypatch.setitem(registry().entries, "environment", [Entry("bitrl-odd", new)])
    assert find_environment("Old-v0") is find_environment("bitrl-odd:Old-v0") is new
    assert capsys.readouterr().err == "environment Old-v0 is spelt otherwise and is now called New-v0\n"
