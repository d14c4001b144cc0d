"""The conformance kit for serializers, backbones and plugins: each way of breaking a contract is found and named."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from conformance_helpers import refusal, target

import bitrl
from bitrl.testing import (
    check_backbone,
    check_plugin,
    check_serializer,
)
from bitrl.testing.small_language_model import small_language_model

# The built-in components keep their own contracts.


@pytest.mark.parametrize("name", ["json", "natural", "compact", "bins", "vector"])
def test_the_built_in_serializers_conform(name: str):
    check_serializer(name)


def test_the_built_in_backbones_conform():
    check_backbone("mlp")
    check_backbone("mlp", hidden=[3])


@pytest.mark.parametrize("options", [{}, {"lora_rank": 4}], ids=["all weights", "adapters"])
@pytest.mark.parametrize("name", ["bitnet", "int8", "int4", "bf16", "fp32"])
def test_the_built_in_language_models_conform(name: str, options: dict[str, Any]):
    check_backbone(name, model=str(small_language_model()), threads=1, **options)


# Records and options.


def serializer_record(cls: type, **fields: Any) -> bitrl.SerializerRecord:
    return bitrl.SerializerRecord(**{"name": "test", "summary": "a test", "target": target(cls), **fields})


class Words:
    """A serializer without faults."""

    def __init__(self, options: Any, observation: bitrl.ObservationSpec):
        self.observation = observation

    def __call__(self, observation: Any) -> Any:
        return " ".join(f"{number:.2f}" for number in np.ravel(observation))

    def batch(self, observations: Any) -> Any:
        return [self(observation) for observation in observations]


class Numbers(Words):
    """A serializer of vectors without faults."""

    width = 4

    def __call__(self, observation: Any) -> Any:
        return np.resize(np.asarray(observation, np.float32), 4)

    def batch(self, observations: Any) -> Any:
        return np.stack([self(observation) for observation in observations])


def test_good_serializers_pass():
    check_serializer(serializer_record(Words))
    check_serializer(serializer_record(Numbers, emits="vector"))
    check_serializer(serializer_record(Numbers, emits="vector"), env="MountainCar-v0")


@bitrl.options
class NoHelp:
    """An option without words."""

    depth: int = bitrl.option(1, " ")


@bitrl.options
class BadDefault:
    """A default that breaks its own rule."""

    depth: float = bitrl.option("deep", "how deep")


@bitrl.options
class NotANumber:
    """A default that its type has no room for: a configuration could not be read back."""

    depth: int = bitrl.option(None, "how deep")


@bitrl.options
class OfPath:
    """A type that no configuration holds."""

    place: Path = bitrl.option(Path("x"), "where")


@bitrl.options
class OfDict:
    """Another."""

    sizes: dict[str, int] = bitrl.option({}, "how large")


@bitrl.options
class OutOfRange:
    """A default that breaks its own rule."""

    depth: int = bitrl.option(0, "how deep", bitrl.above(0))


@bitrl.options
class BadPreset:
    """A preset with an option that is not there."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {"deep": {"dept": 3}}

    preset: Literal["flat", "deep"] = bitrl.option("flat", "a set of defaults")
    depth: int = bitrl.option(1, "how deep")


@bitrl.options
class NoDefault:
    """An option without a default."""

    depth: int = bitrl.option(__import__("attrs").NOTHING, "how deep")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "two words"}, 'the name "two words" must be letters'),
        ({"name": "pack:test"}, '":" stands between package and name'),
        ({"summary": "two\nlines"}, "the summary must be one line"),
        ({"summary": "x" * 101}, "at most 100 characters, got 101"),
        ({"options": NoHelp}, "option depth has no help text"),
        ({"options": BadPreset}, 'preset deep: unknown option "options.dept"'),
        ({"target": "nowhere:Nothing"}, "No module named 'nowhere'"),
    ],
)
def test_a_record_that_is_wrong_is_refused(fields: dict[str, Any], message: str):
    assert message in refusal(check_serializer, serializer_record(Words, **fields))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BadDefault, 'options: BadDefault.depth: expected a number as its default, got "deep"'),
        (NotANumber, "options: NotANumber.depth: expected an integer as its default, got none"),
        (OfPath, "options: OfPath.place is of type"),
        (OfDict, "options: OfDict.sizes is a dict, which is mutable"),
        (OutOfRange, "options: OutOfRange.depth: expected an integer above 0, got 0"),
        (NoDefault, "options: NoDefault.depth has no default"),
    ],
)
def test_options_whose_defaults_no_configuration_could_hold_are_refused_with_their_record(options: type, message: str):
    """Runs would train, and could not be resumed."""
    with pytest.raises(ValueError, match=re.escape(message)):
        serializer_record(Words, options=options)


def test_a_record_of_another_kind_is_refused():
    assert "expected a BackboneRecord" in refusal(check_backbone, serializer_record(Words))


# Serializers.


class Unstable(Words):
    def __call__(self, observation: Any) -> str:
        self.calls = getattr(self, "calls", 0) + 1
        return f"call {self.calls}"


class DependsOnBatch(Words):
    def batch(self, observations: Any) -> list[str]:
        return [f"{self(observation)} of {len(observations)}" for observation in observations]


class Normalises(Words):
    def batch(self, observations: Any) -> list[str]:
        observations += 0 if observations.dtype.kind == "i" else 1.5
        return [self(observation - 1.5) for observation in observations]


class Empty(Words):
    def __call__(self, observation: Any) -> str:
        return ""


class HalfPair(Words):
    def __call__(self, observation: Any) -> str:
        return "\udc80"


class Bytes(Words):
    def __call__(self, observation: Any) -> bytes:
        return b"text"


class NoBatch:
    def __init__(self, options: Any, observation: bitrl.ObservationSpec): ...

    def __call__(self, observation: Any) -> str:
        return "text"


class Tuple(Words):
    def batch(self, observations: Any) -> Any:
        return tuple(super().batch(observations))


class Drops(Words):
    def batch(self, observations: Any) -> Any:
        return super().batch(observations)[1:]


class PerObject(Words):
    made = 0

    def __init__(self, options: Any, observation: bitrl.ObservationSpec):
        PerObject.made += 1
        self.number = PerObject.made

    def __call__(self, observation: Any) -> str:
        return f"{self.number}: {super().__call__(observation)}"


class GlobalChance(Words):
    def __call__(self, observation: Any) -> str:
        random.random()
        return super().__call__(observation)


class Raises(Words):
    def __call__(self, observation: Any) -> str:
        raise KeyError("pole")


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Unstable, "gives a different output"),
        (DependsOnBatch, "in a batch and '"),
        (Normalises, "batch() changed its observations"),
        (Empty, "the text is empty"),
        (HalfPair, "the text holds half of a surrogate pair"),
        (Bytes, "expected a str, got bytes"),
        (NoBatch, "it must have __call__(observation) and batch(observations)"),
        (Tuple, "batch() must return a list of str, got tuple"),
        (Drops, "returned 11 texts"),
        (PerObject, "another object with the same options gives a different output"),
        (GlobalChance, "random changed state"),
        (Raises, "raised KeyError: 'pole'"),
    ],
)
def test_a_serializer_that_breaks_its_contract_is_refused(cls: type, message: str):
    refused = refusal(check_serializer, serializer_record(cls))
    assert message in refused
    assert all(line.startswith('serializer "test": ') for line in refused.splitlines())


class Doubles(Numbers):
    def __call__(self, observation: Any) -> Any:
        return super().__call__(observation).astype(np.float64)


class NoWidth(Numbers):
    width = None  # type: ignore[assignment]


class OtherWidth(Numbers):
    width = 5


class Masked(Numbers):
    def __call__(self, observation: Any) -> Any:
        return np.ma.masked_array(super().__call__(observation))


class Holes(Numbers):
    def __call__(self, observation: Any) -> Any:
        return np.full(4, np.nan, np.float32)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Doubles, "expected float32, got float64"),
        (NoWidth, "width must be an integer above 0, got None"),
        (OtherWidth, "expected shape [5], got [4]"),
        (Masked, "expected a float32 array, got MaskedArray"),
        (Holes, "the numbers are not all finite"),
        (Words, "width must be an integer above 0, got None"),
    ],
)
def test_a_serializer_of_vectors_that_breaks_its_contract_is_refused(cls: type, message: str):
    assert message in refusal(check_serializer, serializer_record(cls, emits="vector"))


class CartPoleOnly(Words):
    def __init__(self, options: Any, observation: bitrl.ObservationSpec):
        if observation.env != "CartPole-v1":
            raise bitrl.UsageError("only for CartPole-v1")


def test_a_serializer_may_refuse_environments_but_not_the_one_it_is_checked_in():
    record = serializer_record(CartPoleOnly)
    check_serializer(record)
    assert "only for CartPole-v1" in refusal(check_serializer, record, env="MountainCar-v0")


# Backbones.


def backbone_record(cls: type, *accepts: str, **fields: Any) -> bitrl.BackboneRecord:
    forms: Any = accepts or ("text",)
    return bitrl.BackboneRecord(name="test", summary="a test", target=target(cls), accepts=forms, **fields)


class Lengths:
    """A backbone without faults, for texts and vectors."""

    def __init__(self, options: Any, width: int | None):
        self.width = 2
        self.identity: Mapping[str, Any] = {"counts": ["letters", "spaces"], "projection": None}

    def encode(self, inputs: Any) -> np.ndarray:
        if isinstance(inputs, np.ndarray):
            return np.stack([inputs.max(axis=1, initial=-9), inputs.min(axis=1, initial=9)], axis=1)
        return np.array([[len(text), text.count(" ")] for text in inputs], np.float32).reshape(-1, 2)


def test_a_good_backbone_passes():
    check_backbone(backbone_record(Lengths, "text", "vector"))


class Widthless(Lengths):
    def __init__(self, options: Any, width: int | None):
        super().__init__(options, width)
        self.width = 0


class Float64(Lengths):
    def encode(self, inputs: Any) -> np.ndarray:
        return super().encode(inputs).astype(np.float64)


class NoEmpty(Lengths):
    def encode(self, inputs: Any) -> np.ndarray:
        return np.array([[len(text), text.count(" ")] for text in inputs], np.float32)


class Padded(Lengths):
    def encode(self, inputs: Any) -> np.ndarray:
        return super().encode(inputs) / (max(map(len, inputs)) if inputs else 1)


class Ordered(Lengths):
    def encode(self, inputs: Any) -> np.ndarray:
        return super().encode(inputs) + np.arange(len(inputs), dtype=np.float32)[:, None]


class Buffer(Lengths):
    buffer = np.zeros((100, 2), np.float32)

    def encode(self, inputs: Any) -> np.ndarray:
        self.buffer[: len(inputs)] = super().encode(inputs)
        return self.buffer[: len(inputs)]


class Unseeded(Lengths):
    def __init__(self, options: Any, width: int | None):
        super().__init__(options, width)
        self.weight = np.random.default_rng().standard_normal()

    def encode(self, inputs: Any) -> np.ndarray:
        return (super().encode(inputs) * self.weight).astype(np.float32)


class NoneIdentity(Lengths):
    def __init__(self, options: Any, width: int | None):
        super().__init__(options, width)
        self.identity = {"layers": [None]}


class TupleIdentity(Lengths):
    def __init__(self, options: Any, width: int | None):
        super().__init__(options, width)
        self.identity = {"hidden": (1, 2)}


class NoIdentity(Lengths):
    def __init__(self, options: Any, width: int | None):
        super().__init__(options, width)
        self.identity = {}


class GlobalNumpy(Lengths):
    def encode(self, inputs: Any) -> np.ndarray:
        np.random.rand()
        return super().encode(inputs)


class Matrix(Lengths):
    def encode(self, inputs: Any) -> np.ndarray:
        return super().encode(inputs).view(np.matrix)


class Infinite(Lengths):
    def encode(self, inputs: Any) -> np.ndarray:
        return super().encode(inputs) / np.float32(0)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Widthless, "width must be an integer above 0, got 0"),
        (Float64, "expected float32, got float64"),
        (NoEmpty, "expected shape [0, 2], got [0]"),
        (Padded, "the features of an input differ when it is encoded alone"),
        (Ordered, "the features of an input differ when it is encoded in another order"),
        (Buffer, "wrote into the features of an earlier one"),
        (Unseeded, "another object with the same options gives different features: is it seeded?"),
        (NoneIdentity, "cannot be written"),
        (TupleIdentity, "comes back as"),
        (NoIdentity, "it is empty"),
        (GlobalNumpy, "numpy.random changed state"),
        (Matrix, "expected an array, got matrix"),
        (Infinite, "the features are not all finite"),
    ],
)
def test_a_backbone_that_breaks_its_contract_is_refused(cls: type, message: str):
    assert message in refusal(check_backbone, backbone_record(cls))


class Linear:
    """A trainable backbone without faults."""

    def __init__(self, options: Any, width: int | None):
        assert width is not None
        self.k, self.width = width, 3
        self.identity: Mapping[str, Any] = {"kind": "linear"}

    def module(self) -> torch.nn.Module:
        return torch.nn.Linear(self.k, 3)

    def encode(self, inputs: np.ndarray) -> np.ndarray:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            return self.module()(torch.from_numpy(inputs)).numpy()


class SharedModule(Linear):
    def __init__(self, options: Any, width: int | None):
        super().__init__(options, width)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.only = torch.nn.Linear(self.k, 3)

    def module(self) -> torch.nn.Module:
        return self.only


class Detached(Linear):
    def module(self) -> torch.nn.Module:
        layers = super().module()
        layers.unused = torch.nn.Parameter(torch.zeros(1))
        return layers


class Narrow(Linear):
    def module(self) -> torch.nn.Module:
        return torch.nn.Linear(self.k, 2)


class Layered(Linear):
    """One that says what its layers are, without faults."""

    tanh_layers = (4, 3)

    def module(self) -> torch.nn.Module:
        hidden = torch.nn.Sequential(torch.nn.Linear(self.k, 4), torch.nn.Tanh())
        return torch.nn.Sequential(hidden, torch.nn.Linear(4, 3), torch.nn.Tanh())


class OtherLayers(Layered):
    tanh_layers = (8, 3)


class NoTanh(Layered):
    def module(self) -> torch.nn.Module:
        return super().module()[:-1]


class ReseedsTorch(Linear):
    def encode(self, inputs: np.ndarray) -> np.ndarray:
        torch.manual_seed(1)
        with torch.no_grad():
            return self.module()(torch.from_numpy(inputs)).numpy()


def test_a_good_trainable_backbone_passes():
    for cls in (Linear, Layered):
        check_backbone(backbone_record(cls, "vector", provides=("gradients",)))


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (SharedModule, "two modules share their weight weight"),
        (Detached, "weight unused gets no finite gradient"),
        (Narrow, "expected features of shape [6, 3], got [6, 2]"),
        (
            OtherLayers,
            "tanh_layers says linear layers of widths [8, 3] with tanh after each, but module() has Linear, Tanh",
        ),
        (NoTanh, "tanh after each, but module() has Linear, Tanh, Linear of [(5, 4), (4, 3)]"),
        (ReseedsTorch, "torch's generator changed state"),
    ],
)
def test_a_trainable_backbone_that_breaks_its_contract_is_refused(cls: type, message: str):
    with torch.random.fork_rng(devices=[]):
        assert message in refusal(check_backbone, backbone_record(cls, "vector", provides=("gradients",)))


class Letters(Lengths):
    """A backbone of tokens, without faults: each letter is one."""

    def tokenize(self, inputs: Any) -> list[list[int]]:
        return [[*map(ord, text)] for text in inputs]

    def token_counts(self, inputs: Any) -> list[int]:
        return [len(text) for text in inputs]


class Miscounts(Letters):
    def token_counts(self, inputs: Any) -> list[int]:
        return [1 for _ in inputs]


def test_what_a_backbone_claims_must_be_true_and_what_it_can_do_be_claimed():
    check_backbone(backbone_record(Letters, provides=("features", "tokens")))
    assert 'claims "tokens", and it lacks a member of TokenizingBackbone' in refusal(
        check_backbone, backbone_record(Lengths, provides=("features", "tokens"))
    )
    assert 'add "tokens" to `provides`' in refusal(check_backbone, backbone_record(Letters))
    assert 'add "gradients" to `provides`' in refusal(check_backbone, backbone_record(Linear, "vector"))
    miscounted = refusal(check_backbone, backbone_record(Miscounts, provides=("features", "tokens")))
    assert "token_counts() gives [1, 1" in miscounted


@bitrl.options
class GainOptions:
    """What a backbone that learns has to set."""

    gain: float | None = bitrl.option(None, "learn a gain that begins with this; none: do not")


class Gain(Lengths):
    """A backbone of texts that learns, without faults: one number that its features are multiplied by."""

    def __init__(self, options: GainOptions, width: int | None):
        super().__init__(options, width)
        self.version, self.gain, self.learner = 0, np.float32(options.gain or 1.0), None

    def encode(self, inputs: Any) -> np.ndarray:
        return super().encode(inputs) * self.gain

    def module(self) -> torch.nn.Module:
        if self.learner is None:
            self.learner = Multiply(super().encode, float(self.gain))
        return self.learner

    def sync(self) -> None:
        self.load_learned({"gain": self.module().gain.detach().numpy().copy()})

    def learned(self) -> dict[str, np.ndarray]:
        return {"gain": np.asarray(self.gain)}

    def load_learned(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.gain, self.version = np.float32(arrays["gain"]), self.version + 1


class Multiply(torch.nn.Module):
    def __init__(self, encode: Any, gain: float):
        super().__init__()
        self.encode, self.gain = encode, torch.nn.Parameter(torch.tensor(gain))

    def forward(self, texts: list[str]) -> torch.Tensor:
        return torch.from_numpy(self.encode(texts)) * self.gain


class ForgetsToSync(Gain):
    def sync(self) -> None:
        self.version += 1


class NoVersion(Gain):
    def load_learned(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.gain = np.float32(arrays["gain"])


class AnotherModule(Gain):
    def module(self) -> torch.nn.Module:
        return Multiply(super(Gain, self).encode, float(self.gain))


class KeepsItsGain(Gain):
    def learned(self) -> dict[str, np.ndarray]:
        return {"gain": np.asarray(np.float32(1.0))}


class ComputesOtherwise(Gain):
    def encode(self, inputs: Any) -> np.ndarray:
        return super().encode(inputs) * np.float32(1.01)


def learning_record(cls: type) -> bitrl.BackboneRecord:
    return backbone_record(
        cls, provides=("features", "gradients"), needs_option={"gradients": "gain"}, options=GainOptions
    )


def test_a_good_backbone_of_texts_that_learns_passes():
    check_backbone(learning_record(Gain), gain=1.5)
    check_backbone(learning_record(Gain))


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (ForgetsToSync, "encode() gives the old features after sync()"),
        (NoVersion, "sync() does not advance `version`"),
        (AnotherModule, "module() must return the same object at every call"),
        (KeepsItsGain, "load_learned(learned()) gives different features in another object"),
        (ComputesOtherwise, "before it learned module() and encode() differ"),
    ],
)
def test_a_backbone_of_texts_that_learns_wrongly_is_refused(cls: type, message: str):
    assert message in refusal(check_backbone, learning_record(cls), gain=1.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"provides": ("feature",)}, "provides"),
        ({"provides": ()}, "provides"),
        ({"needs_option": {"gradients": "gain"}}, '"gradients" is not a capability that the backbone provides'),
        ({"provides": ("gradients",), "needs_option": {"gradients": "rank"}}, 'has no option "rank"'),
        ({"feature_options": ("pooling",)}, 'has no option "pooling"'),
    ],
)
def test_a_record_that_claims_nonsense_is_not_made(fields: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        backbone_record(Lengths, **fields)


# Plugins.


def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, name: str) -> str:
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)  # another test's
    return name


HOOK = """
import bitrl

class Words:
    def __init__(self, options, observation): ...
    def __call__(self, observation): return str(observation.tolist() if hasattr(observation, "tolist") else observation)
    def batch(self, observations): return [self(observation) for observation in observations]

class plugin:
    @staticmethod
    @bitrl.hookimpl
    def bitrl_serializers():
        yield bitrl.SerializerRecord(name="{name}", summary="a test", target="{module}:Words")
"""


def test_a_plugin_that_is_not_installed_can_be_checked_as_an_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = write(tmp_path, monkeypatch, HOOK.format(name="fine", module="object_plugin"), "object_plugin")
    check_plugin(f"{name}:plugin")


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("heavy_plugin", "import torch\n" + HOOK, "reading heavy_plugin:plugin imports "),
        ("taken_plugin", HOOK.replace("{name}", "json"), 'serializer "json" is also provided by bitrl'),
        ("idle_plugin", "plugin = object()", "no hook yields a record, and none is bitrl_event"),
        ("wrong_plugin", HOOK.replace("bitrl_serializers", "bitrl_serialisers"), "did you mean bitrl_serializers?"),
    ],
)
def test_a_plugin_that_breaks_a_rule_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, source: str, message: str
):
    source = source.replace("{name}", "fine").replace("{module}", module)
    name = write(tmp_path, monkeypatch, source, module)
    assert message in refusal(check_plugin, f"{name}:plugin")


def test_a_package_that_is_not_there_is_an_error_of_the_command():
    with pytest.raises(bitrl.UsageError, match='unknown plugin "bitlr": did you mean "bitrl"'):
        check_plugin("bitlr")
    with pytest.raises(bitrl.UsageError, match="nowhere:plugin cannot be imported: ModuleNotFoundError"):
        check_plugin("nowhere:plugin")


def test_the_kit_needs_no_test_runner():
    code = "import sys, bitrl.testing; bitrl.testing.check_serializer('json'); sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
