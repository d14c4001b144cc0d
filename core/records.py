"""Records: what a plugin's hooks yield. Lightweight descriptions of components, whose code is imported only when they
are chosen.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import attrs

from bitrl.core.errors import UsageError, cause, out_of_memory
from bitrl.core.installing import is_there, to_install
from bitrl.core.options import NoOptions, default_fault
from bitrl.core.wording import pip

Form = Literal["text", "vector"]

Capability = Literal["features", "gradients", "generation", "tokens", "cache"]
"""What a backbone may provide, each with a protocol (interfaces.PROTOCOLS)."""

LearnsFrom = Literal["features", "gradients", "generation"]
"""What an algorithm may learn from."""

ActionSpace = Literal["Discrete", "MultiDiscrete", "MultiBinary", "Box", "Text", "Dict", "Tuple"]
"""The kinds of action space that an algorithm may support, called as in Gymnasium."""


def _tuple(values: Any) -> Any:
    return tuple(values) if isinstance(values, (list, set, frozenset)) else values


def _one_of(*names: str) -> Any:
    """A validator: expects one of `names`."""

    def check(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value not in names:
            raise ValueError(f"{attribute.name}: expected {_either(names)}, got {value!r}")

    return check


def _some_of(*names: str) -> Any:
    """A validator: expects a non-empty tuple of some of `names`."""

    def check(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, tuple) or not value:
            example = value if isinstance(value, str) and value in names else names[0]
            raise ValueError(f'{attribute.name}: expected a tuple such as ("{example}",), got {value!r}')
        for each in value:
            if each not in names:
                raise ValueError(f"{attribute.name}: expected {_either(names)}, got {each!r}")

    return check


def _either(names: Iterable[str]) -> str:
    return " or ".join(f'"{name}"' for name in names)


def _true_or_false(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{attribute.name}: expected True or False, got {value!r}")


def _share(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"{attribute.name}: expected a number of at least 0 and below 1, got {value!r}")


def _text(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{attribute.name}: expected a non-empty string, got {value!r}")


def _target(instance: object, attribute: attrs.Attribute[Any], value: str) -> None:
    module, _, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not module or not name.isidentifier():
        raise ValueError(f'target: expected "module:attribute", got "{value}"')


def _options_class(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not (isinstance(value, type) and attrs.has(value)):
        raise ValueError(f"options: expected a class decorated with @bitrl.options, got {value!r}")
    if fault := default_fault(value):
        raise ValueError(f"options: {value.__name__}.{fault}")


@attrs.frozen(kw_only=True)
class Record:
    """The common part of all records: name, one-line summary, location of the code, and options class.

    Attributes:
        aliases: earlier names of the component, each with the reason it was renamed, as {"fp16": "computes in
            bfloat16"}: accepted wherever a name is, with a line on stderr that gives the new one.
    """

    name: str = attrs.field(validator=_text)
    summary: str
    target: str = attrs.field(validator=_target)
    options: type = attrs.field(default=NoOptions, validator=_options_class)
    aliases: Mapping[str, str] = attrs.field(factory=dict, hash=False)

    def load(self) -> Any:
        """Import and return the target.

        Raises:
            UsageError: the module does not import or has no such attribute; the message names both.
        """
        return self._load(self.target)

    def _load(self, target: str) -> Any:
        module, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except UsageError:
            raise  # already explains itself
        except (Exception, SystemExit) as error:
            if out_of_memory(error):
                raise
            why = cause(error)
            if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] not in module:
                why += f": {to_install(error.name)}"
            raise UsageError(f'"{self.name}" could not be loaded from {target}: {why}') from error


@attrs.frozen(kw_only=True)
class ChoosingRecord(Record):
    """The common part of the records of components that may leave options to evidence.

    Attributes:
        chooser: "module:function" that chooses options which a run leaves to evidence, before it begins: called with
            the configuration and "env", "serializer", "backbone" or "critic_backbone", it returns that part's options
            and a line that says what was chosen ("": nothing worth saying), or None. None: there is nothing to choose.
    """

    chooser: str | None = None

    def load_chooser(self) -> Any:
        """Import and return the chooser; None if there is none. Raises as `load`."""
        return None if self.chooser is None else self._load(self.chooser)


@attrs.frozen(kw_only=True)
class SerializerRecord(ChoosingRecord):
    """A serializer; `emits` is the form of its output, text or a vector of numbers; `learns` is true if it learns its
    encoding from states (interfaces.LearningSerializer).
    """

    emits: Form = attrs.field(default="text", validator=_one_of(*get_args(Form)))
    learns: bool = attrs.field(default=False, validator=_true_or_false)


@attrs.frozen(kw_only=True)
class BackboneRecord(ChoosingRecord):
    """A map from texts (or vectors) to features.

    Attributes:
        accepts: the input forms it accepts.
        provides: its capabilities: "features" that stay fixed during training, "gradients" (the algorithm trains it),
            "generation" (it generates text), "tokens", "cache". Each is a protocol of bitrl.core.interfaces.
        batch_tolerance: how far the features of an input may differ with the others in its batch, as a share of the
            largest feature: matrix products of other libraries add in another order. 0: not at all, so that features
            may be cached and runs repeat themselves exactly.
        needs_option: capability that it provides only if an option is set → that option, for example
            {"gradients": "lora_rank"}. Setting the option of "gradients" requests training.
        feature_options: options that shape features alone. Set beside an algorithm that learns from generation, they
            would do nothing: that is refused.
        memory: "module:function" that says what the backbone will take, before it is made, to runs with a memory limit:
            called with its options and how many numbers a state has (None: unknown), it returns a BackboneMemory
            (bitrl.core.process_memory). None: that is measured when it is made.
    """

    accepts: tuple[Form, ...] = attrs.field(default=("text",), converter=_tuple, validator=_some_of(*get_args(Form)))
    provides: tuple[Capability, ...] = attrs.field(
        default=("features",), converter=_tuple, validator=_some_of(*get_args(Capability))
    )
    needs_option: Mapping[Capability, str] = attrs.field(factory=dict, hash=False)
    feature_options: tuple[str, ...] = attrs.field(default=(), converter=_tuple)
    batch_tolerance: float = attrs.field(default=0.0, validator=_share)
    memory: str | None = None

    @needs_option.validator
    def _known(self, attribute: attrs.Attribute[Any], value: Mapping[str, str]) -> None:
        own = attrs.fields_dict(self.options)
        for capability, name in value.items():
            if capability not in self.provides:
                raise ValueError(f'needs_option: "{capability}" is not a capability that the backbone provides')
            if name not in own:
                raise ValueError(f'needs_option: the backbone has no option "{name}"')

    @feature_options.validator
    def _own(self, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
        for name in value:
            if name not in attrs.fields_dict(self.options):
                raise ValueError(f'feature_options: the backbone has no option "{name}"')

    def load_memory(self) -> Any:
        """Import and return what says what it takes; None if nothing does. Raises as `load`."""
        return None if self.memory is None else self._load(self.memory)

    def trains(self, options: Any) -> bool:
        """Whether the algorithm trains a backbone with these options."""
        if "gradients" not in self.provides:
            return False
        option = self.needs_option.get("gradients")
        return option is None or getattr(options, option) is not None


@attrs.frozen(kw_only=True)
class AlgorithmRecord(Record):
    """An algorithm.

    Attributes:
        learns_from: what it can learn from (any one suffices): a backbone's "features", the "gradients" of a backbone
            that it trains, the "generation" of a backbone that it trains to generate text.
        critic_backbone: it supports a separate backbone for its critic.
        commands: it can choose among admissible commands (bitrl.core.acting.admissible).
        actions: the action spaces that it supports, for example ("Discrete", "Box"): an environment with another one is
            refused before training, and the conformance kit does not try it there. None: not declared; its constructor
            raises UsageError for a space that it does not support.
        bootstraps: it estimates returns by the value of the state that a rollout or a truncated episode was cut off in.
            True: the conformance kit checks that; False: it learns from the rewards that it saw, and the kit does not;
            None: not declared, and the kit checks it where it finds that a rollout's last state matters.
        group_option: its option that says how many successive environments (of `run.num_envs`) begin alike, reset with
            the same seed, so that it can compare what follows; None: each begins on its own.
        tuned: environment → settings tuned for this algorithm there, for example {"CartPole-v1": {"algo.gamma": 0.98}};
            they take precedence over those of the environment's record.
        memory: "module:function" that says what the algorithm will take, to runs with a memory limit: called with its
            options and a LearningSizes, it returns a LearningMemory (bitrl.core.process_memory). None: it is measured.
    """

    learns_from: tuple[LearnsFrom, ...] = attrs.field(
        default=("features",), converter=_tuple, validator=_some_of(*get_args(LearnsFrom))
    )
    critic_backbone: bool = attrs.field(default=False, validator=_true_or_false)
    commands: bool = attrs.field(default=False, validator=_true_or_false)
    actions: tuple[ActionSpace, ...] | None = attrs.field(
        default=None, converter=_tuple, validator=attrs.validators.optional(_some_of(*get_args(ActionSpace)))
    )
    bootstraps: bool | None = attrs.field(default=None, validator=attrs.validators.optional(_true_or_false))
    group_option: str | None = attrs.field(default=None, validator=attrs.validators.optional(_text))
    tuned: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, hash=False)
    memory: str | None = None

    def load_memory(self) -> Any:
        """Import and return `memory`; None if there is none. Raises as `load`."""
        return None if self.memory is None else self._load(self.memory)

    @group_option.validator
    def _an_option(self, attribute: attrs.Attribute[Any], value: str | None) -> None:
        if value is not None and value not in attrs.fields_dict(self.options):
            raise ValueError(f'group_option: the algorithm has no option "{value}"')


@attrs.frozen(kw_only=True)
class EnvironmentRecord(ChoosingRecord):
    """An environment.

    Attributes:
        defaults: default settings for every algorithm, for example {"run.steps": 100_000}; the user's take precedence.
            Options of an algorithm belong in `tuned`.
        tuned: algorithm → settings tuned for it in this environment, for example {"ppo": {"algo.gamma": 0.9}}.
    """

    defaults: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    tuned: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, hash=False)

    @defaults.validator
    def _no_algorithm(self, attribute: attrs.Attribute[Any], value: Mapping[str, Any]) -> None:
        of_algorithm = [path for path in value if path.startswith("algo.")]
        if of_algorithm:
            path = of_algorithm[0]
            raise ValueError(
                f'defaults: "{path}" is an option of one algorithm: write tuned={{"ppo": {{"{path}": …}}}}'
            )


@attrs.frozen(kw_only=True)
class LoggerRecord(Record):
    """Receives a run's metrics as they are produced, in addition to metrics.jsonl; the target is a bitrl.Logger.

    Attributes:
        needs: optional modules → what to install for them, for example {"tensorboardX": "bitrl[tensorboard]"}.
            Without them the logger is refused before a run starts.
    """

    needs: Mapping[str, str] = attrs.field(factory=dict, hash=False)

    def check_needs(self) -> None:
        """Raise UsageError if a module that the logger needs is not installed."""
        for module, package in self.needs.items():
            if not is_there(module):
                raise UsageError(f'logger "{self.name}" needs {module}: ' + pip(f"install '{package}'"))


@attrs.frozen(kw_only=True)
class CommandRecord(Record):
    """A subcommand `bitrl NAME`; the target is a click command."""

    options: type = attrs.field(default=NoOptions, init=False)  # click's own


@attrs.frozen(kw_only=True)
class EnergyMeterRecord(Record):
    """A kind of energy meter; the target is called without arguments, and yields a bitrl.EnergyMeter for each that this
    machine has.
    """

    options: type = attrs.field(default=NoOptions, init=False)


@attrs.frozen(kw_only=True)
class DoctorCheckRecord(Record):
    """A check of `bitrl doctor`; the target is called without arguments, and yields bitrl.Finding objects."""

    options: type = attrs.field(default=NoOptions, init=False)
