"""Records: what a plugin's hooks yield. Light descriptions of components, whose code is imported only when one is
chosen.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import attrs

from bitrl.core.errors import UsageError
from bitrl.core.options import NoOptions

Form = Literal["text", "vector"]

Capability = Literal["features", "gradients", "generation", "tokens", "cache"]
"""What a backbone may provide: each stands for a protocol (interfaces.PROTOCOLS)."""

LearnsFrom = Literal["features", "gradients", "generation"]
"""What an algorithm may learn from."""


def _tuple(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(values)


def _some_of(*names: str) -> list[Any]:
    """Validators of a tuple that is not empty and holds nothing but `names`."""
    return [attrs.validators.min_len(1), attrs.validators.deep_iterable(attrs.validators.in_(names))]


def _target(instance: object, attribute: attrs.Attribute[Any], value: str) -> None:
    module, _, name = value.partition(":")
    if not module or not name.isidentifier():
        raise ValueError(f'target: expected "module:attribute", got "{value}"')


def _options_class(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not (isinstance(value, type) and attrs.has(value)):
        raise ValueError(f"options: expected a class decorated with @bitrl.options, got {value!r}")


@attrs.frozen(kw_only=True)
class Record:
    """What every component says of itself: its name, one line, where its code is, and its options class.

    Attributes:
        aliases: earlier names of the component, each with the reason it was renamed, as {"fp16": "computes in
            bfloat16"}: they are accepted wherever a name is, and a line on stderr gives the new one.
    """

    name: str = attrs.field(validator=attrs.validators.min_len(1))
    summary: str
    target: str = attrs.field(validator=_target)
    options: type = attrs.field(default=NoOptions, validator=_options_class)
    aliases: Mapping[str, str] = attrs.field(factory=dict, hash=False)

    def load(self) -> Any:
        """Import and return the target.

        Raises:
            UsageError: the module does not import or has no such attribute; names the component and the cause.
        """
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except UsageError:
            raise  # the component says by itself what it lacks
        except (Exception, SystemExit) as error:
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            raise UsageError(f'"{self.name}" could not be loaded from {self.target}: {cause}') from error


@attrs.frozen(kw_only=True)
class SerializerRecord(Record):
    """A way to write a state down; `emits` says whether as a text or as a vector of numbers, `learns` that it learns
    from states what to write (interfaces.LearningSerializer).
    """

    emits: Form = attrs.field(default="text", validator=attrs.validators.in_(("text", "vector")))
    learns: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))


@attrs.frozen(kw_only=True)
class BackboneRecord(Record):
    """A map from texts (or vectors) to features.

    Attributes:
        accepts: the forms it reads.
        provides: what it can do: "features" that stay the same while an agent learns, "gradients" (the algorithm trains
            it), "generation" (it writes texts), "tokens", "cache". Each is a protocol of bitrl.core.interfaces.
        needs_option: what it provides only where an option is set → that option, as {"gradients": "lora_rank"}. Where
            gradients are provided so, setting the option asks for them.
    """

    accepts: tuple[Form, ...] = attrs.field(default=("text",), converter=_tuple, validator=_some_of(*get_args(Form)))
    provides: tuple[Capability, ...] = attrs.field(
        default=("features",), converter=_tuple, validator=_some_of(*get_args(Capability))
    )
    needs_option: Mapping[Capability, str] = attrs.field(factory=dict, hash=False)

    @needs_option.validator
    def _known(self, attribute: attrs.Attribute[Any], value: Mapping[str, str]) -> None:
        own = attrs.fields_dict(self.options)
        for capability, name in value.items():
            if capability not in self.provides:
                raise ValueError(f'needs_option: "{capability}" is not among what the backbone provides')
            if name not in own:
                raise ValueError(f'needs_option: the backbone has no option "{name}"')

    def trains(self, options: Any) -> bool:
        """Whether the algorithm trains the backbone that is made of these options."""
        if "gradients" not in self.provides:
            return False
        option = self.needs_option.get("gradients")
        return option is None or getattr(options, option) is not None


@attrs.frozen(kw_only=True)
class AlgorithmRecord(Record):
    """A learner.

    Attributes:
        learns_from: what it can learn from, of which one is enough: a backbone's "features", the "gradients" of one
            that it trains, the "generation" of one that it trains to write.
        critic_backbone: it has a critic which may read a backbone of its own.
        commands: it can act by choosing among texts (bitrl.core.acting.admissible).
        tuned: environment → settings that make this algorithm learn there, as {"CartPole-v1": {"algo.gamma": 0.98}};
            they win over what the environment's record sets.
    """

    learns_from: tuple[LearnsFrom, ...] = attrs.field(
        default=("features",), converter=_tuple, validator=_some_of(*get_args(LearnsFrom))
    )
    critic_backbone: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    commands: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    tuned: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, hash=False)


@attrs.frozen(kw_only=True)
class EnvironmentRecord(Record):
    """An environment.

    Attributes:
        defaults: settings for every algorithm that make learning in it work (`{"run.steps": 100_000}`), below the
            user's own. Options of an algorithm belong in `tuned`.
        tuned: algorithm → settings for the pair of it and this environment, as {"ppo": {"algo.gamma": 0.9}}.
    """

    defaults: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    tuned: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, hash=False)

    @defaults.validator
    def _no_algorithm(self, attribute: attrs.Attribute[Any], value: Mapping[str, Any]) -> None:
        of_algorithm = [path for path in value if path.startswith("algo.")]
        if of_algorithm:
            path = of_algorithm[0]
            raise ValueError(f'defaults: "{path}" is an option of one algorithm: tuned={{"ppo": {{"{path}": …}}}}')


@attrs.frozen(kw_only=True)
class LoggerRecord(Record):
    """Where a run's metrics go as they come, beside metrics.jsonl; the target is a bitrl.Logger.

    Attributes:
        needs: modules that the package does not install by itself → what to install, as
            {"tensorboardX": "bitrl[tensorboard]"}. Without them the logger is refused before a run begins.
    """

    needs: Mapping[str, str] = attrs.field(factory=dict, hash=False)

    def check_needs(self) -> None:
        """Raise UsageError where something that the logger needs is not installed."""
        for module, package in self.needs.items():
            if importlib.util.find_spec(module) is None:
                raise UsageError(f"logger \"{self.name}\" needs {module}: pip install '{package}'")


@attrs.frozen(kw_only=True)
class CommandRecord(Record):
    """A command of the program: `bitrl NAME`; the target is a click command."""

    options: type = attrs.field(default=NoOptions, init=False)  # click's own


@attrs.frozen(kw_only=True)
class DoctorCheckRecord(Record):
    """A check of `bitrl doctor`; the target is called without arguments, and yields bitrl.Finding objects."""

    options: type = attrs.field(default=NoOptions, init=False)
