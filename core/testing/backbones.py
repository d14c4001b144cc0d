"""Checks of backbones."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
import tomli_w

from bitrl.core.interfaces import PROTOCOLS, Backbone, LearningBackbone
from bitrl.core.options import parse
from bitrl.core.records import BackboneRecord
from bitrl.testing.outcomes import Check, ConformanceError, Outcome, demand, examine, expect, run_checks
from bitrl.testing.record_checks import RECORD_CHECKS, resolve
from bitrl.testing.saved_arrays import expect_copies, expect_loads_copies, from_checkpoint

WIDTH = 5
"""k of the vectors that backbones for vectors are tried with."""

TEXTS = [
    '{"cart_position": 0.031, "cart_velocity": -0.520}',
    "x=0.031",
    "The cart is right of the centre by 0.031 m, moving left at 0.520 m/s.",
    "x=0.031",
    "température: −3 °C",
    "x=0.031 v=-0.520 angle=0.012 spin=1.204",
]
"""What backbones for texts are tried with: different lengths, one text twice, and letters beyond ASCII."""

LEARNING_TOLERANCE = 1e-4
"""How far the features of a module that learns may be from those of encode(), as a share of the largest."""

TRAINED_TOLERANCE = 1e-5
"""How far features of a backbone that the algorithm trains may differ, as a share of the largest: no cache keeps them,
and the module that is trained gives others.
"""


@attrs.frozen
class BackboneCase:
    """A backbone made for one form of input, and inputs of that form."""

    record: BackboneRecord
    options: Any
    form: str
    backbone: Any

    @property
    def inputs(self) -> Any:
        """n inputs: a list of texts, or a fresh float32 [n, k]."""
        if self.form == "text":
            return list(TEXTS)
        return np.random.default_rng(0).uniform(-1, 1, (len(TEXTS), WIDTH)).astype(np.float32)

    def some(self, indices: list[int]) -> Any:
        """The inputs at `indices`."""
        return [self.inputs[i] for i in indices] if self.form == "text" else self.inputs[np.array(indices, int)]

    def another(self) -> Any:
        """Another backbone made with the same arguments."""
        return self.record.load()(self.options, WIDTH if self.form == "vector" else None)


def check_backbone(component: str | BackboneRecord, **options: Any) -> None:
    """Check a backbone, by name or by record, with every form of input that it accepts.

    Raises:
        ConformanceError: the contract is broken; one line for each check that failed.
    """
    record = resolve(BackboneRecord, component)
    demand(backbone_outcomes(record, **options))


def backbone_outcomes(record: BackboneRecord, **options: Any) -> Iterator[Outcome]:
    """The outcome of every check."""
    component = f'backbone "{record.name}"'

    def cases() -> list[BackboneCase]:
        """Its target makes it from its options and the width of the vectors (None for texts: unknown)."""
        values: Any = parse(record.options, options, "backbone")
        return [
            BackboneCase(record, values, form, record.load()(values, WIDTH if form == "vector" else None))
            for form in record.accepts
        ]

    yield from run_checks(component, record, RECORD_CHECKS)
    yield from examine(component, cases, CHECKS)


def has_the_interface(cases: list[BackboneCase]) -> None:
    """It has encode(), a width above 0 and an identity."""
    for case in cases:
        expect(isinstance(case.backbone, Backbone), "it must have encode(inputs), width and identity")
        width = case.backbone.width
        expect(isinstance(width, int) and width > 0, f"width must be an integer above 0, got {width!r}")


def gives_finite_float32_features(cases: list[BackboneCase]) -> None:
    """encode() returns finite float32 features [n, width]."""
    for case in cases:
        features = case.backbone.encode(case.inputs)
        expect(isinstance(features, np.ndarray), f"expected an array, got {type(features).__name__}")
        expect(features.dtype == np.float32, f"expected float32, got {features.dtype}")
        shape = [len(TEXTS), case.backbone.width]
        expect(list(features.shape) == shape, f"expected shape {shape}, got {list(features.shape)}")
        expect(np.isfinite(features).all(), "the features are not all finite")


def takes_no_inputs_at_all(cases: list[BackboneCase]) -> None:
    """encode() of no inputs returns features [0, width]."""
    for case in cases:
        features = case.backbone.encode(case.some([]))
        shape = [0, case.backbone.width]
        expect(list(np.shape(features)) == shape, f"expected shape {shape}, got {list(np.shape(features))}")


def repeats_itself_exactly(cases: list[BackboneCase]) -> None:
    """The same inputs give the same features in every call, and in every object with the same options."""
    for case in cases:
        first = case.backbone.encode(case.inputs).copy()
        expect(
            np.array_equal(first, case.backbone.encode(case.inputs)),
            "a second call with the same inputs gives different features",
        )
        other = case.another()
        expect(
            np.array_equal(first, other.encode(case.inputs)),
            "another object with the same options gives different features: is it seeded?",
        )
        expect(
            dict(other.identity) == dict(case.backbone.identity), "two objects with the same options differ in identity"
        )


def reads_each_input_by_itself(cases: list[BackboneCase]) -> None:
    """The features of an input do not depend on the others in the batch, nor on their order (`batch_tolerance`)."""
    for case in cases:
        trained = case.record.trains(case.options)
        tolerance = max(case.record.batch_tolerance, TRAINED_TOLERANCE if trained else 0.0)
        together = case.backbone.encode(case.inputs).copy()
        order = list(reversed(range(len(TEXTS))))
        _expect_close(case.backbone.encode(case.some(order)), together[order], "in another order", tolerance)
        for index in range(len(TEXTS)):
            _expect_close(case.backbone.encode(case.some([index])), together[[index]], "alone", tolerance)


def keeps_its_results(cases: list[BackboneCase]) -> None:
    """encode() returns fresh arrays, and does not modify its inputs."""
    for case in cases:
        inputs = case.inputs
        features = case.backbone.encode(inputs)
        kept = features.copy()
        expect(np.array_equal(np.asarray(inputs), np.asarray(case.inputs)), "encode() changed its inputs")
        case.backbone.encode(case.some([len(TEXTS) - 1] * len(TEXTS)))
        expect(
            np.array_equal(features, kept),
            "a later call of encode() wrote into the features of an earlier one: copy them",
        )


def has_plain_data_as_identity(cases: list[BackboneCase]) -> None:
    """Its identity is plain data that a TOML file restores unchanged."""
    for case in cases:
        identity = {name: value for name, value in case.backbone.identity.items() if value is not None}  # None: unset
        expect(identity, "it is empty: it must contain everything that determines the features, such as a file's hash")
        try:
            back = tomllib.loads(tomli_w.dumps(identity))
        except (TypeError, ValueError) as error:
            raise ConformanceError(
                f"{identity!r} cannot be written as TOML: expected strings, numbers, lists and dicts only ({error})"
            ) from None
        expect(
            back == identity, f"{identity!r} comes back as {back!r}: expected strings, numbers, lists and dicts only"
        )


def provides_what_it_claims(cases: list[BackboneCase]) -> None:
    """It provides the capabilities that its record declares, and declares those that it provides."""
    for case in cases:
        for capability, protocol in PROTOCOLS.items():
            if capability == "features":
                continue
            has, claims = isinstance(case.backbone, protocol), capability in case.record.provides
            missing = f'its record claims "{capability}", and it lacks a member of {protocol.__name__}'
            expect(has or not claims or capability in case.record.needs_option, missing)
            expect(claims or not has, f'it has the members of {protocol.__name__}: add "{capability}" to `provides`')


def counts_its_tokens(cases: list[BackboneCase]) -> None:
    """If it provides tokens, tokenize() gives the ids of each text by itself, and token_counts() how many they are."""
    for case in cases:
        if "tokens" not in case.record.provides or case.form != "text":
            continue
        ids = case.backbone.tokenize(TEXTS)
        expect(len(ids) == len(TEXTS), f"expected the tokens of {len(TEXTS)} texts, got {len(ids)}")
        alone = [case.backbone.tokenize([text])[0] for text in TEXTS]
        expect([*map(list, ids)] == [*map(list, alone)], "a text's tokens depend on the others in the batch")
        counts = case.backbone.token_counts(TEXTS)
        expect(list(counts) == [len(each) for each in ids], f"token_counts() gives {counts}, and tokenize() {ids}")


def learns_through_its_module(cases: list[BackboneCase]) -> None:
    """If it reads texts and is trained, its one module gives encode()'s features, and sync() makes encode() follow."""
    for case in cases:
        if case.form != "text" or not case.record.trains(case.options):
            continue
        backbone: LearningBackbone = case.backbone
        module, version = backbone.module(), backbone.version
        expect(backbone.module() is module, "module() must return the same object at every call")
        weights = [weight for weight in module.parameters() if weight.requires_grad]
        expect(weights, "no parameter of its module requires a gradient")
        before = backbone.encode(list(TEXTS))
        _expect_like(module, before, "before it learned")
        import torch

        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for weight in weights:
                weight.add_(0.05 * torch.randn_like(weight))
        backbone.sync()
        expect(backbone.version > version, "sync() does not advance `version`")
        after = backbone.encode(list(TEXTS))
        expect(not np.array_equal(before, after), "encode() gives the old features after sync()")
        _expect_like(module, after, "after sync()")
        learned = from_checkpoint(backbone.learned(), "learned()")
        expect_copies(backbone.learned, "learned()")
        expect(np.array_equal(backbone.encode(list(TEXTS)), after), "changing the arrays of learned() changed encode()")
        another = case.another()
        expect_loads_copies(another.load_learned, another.learned, learned, "load_learned()")
        expect(
            np.array_equal(another.encode(list(TEXTS)), after),
            "load_learned(learned()) gives different features in another object",
        )


def _expect_like(module: Any, features: np.ndarray, when: str) -> None:
    learned = module(list(TEXTS)).detach().numpy()
    scale = max(float(np.abs(features).max()), 1e-30)
    difference = float(np.abs(learned - features).max()) / scale
    expect(difference <= LEARNING_TOLERANCE, f"{when} module() and encode() differ by {difference:.1e} of the largest")


def is_trained_through_its_module(cases: list[BackboneCase]) -> None:
    """If it reads vectors and is trained, module() is a new one, [n, k] → [n, width], whose weights get gradients."""
    for case in cases:
        if case.form != "vector" or not case.record.trains(case.options):
            continue
        import torch

        with torch.random.fork_rng(devices=[]):
            modules = []
            for _ in range(2):
                torch.manual_seed(0)
                modules.append(case.backbone.module())
        module, twin = modules
        expect(isinstance(module, torch.nn.Module), f"expected a torch.nn.Module, got {type(module).__name__}")
        weights = dict(module.named_parameters())
        expect(weights, "the module has no weights")
        for (name, weight), other in zip(weights.items(), twin.parameters(), strict=True):
            expect(
                weight is not other and weight.data_ptr() != other.data_ptr(), f"two modules share their weight {name}"
            )
            expect(
                torch.equal(weight, other),
                f"weight {name} is not initialised from torch's generator: a seed does not reproduce it",
            )
        outputs = module(torch.from_numpy(case.inputs))
        shape = [len(TEXTS), case.backbone.width]
        expect(list(outputs.shape) == shape, f"expected features of shape {shape}, got {list(outputs.shape)}")
        expect(outputs.dtype == torch.float32, f"expected float32 features, got {outputs.dtype}")
        outputs.square().sum().backward()
        for name, weight in weights.items():
            gradient = weight.grad
            expect(
                gradient is not None and bool(torch.isfinite(gradient).all()), f"weight {name} gets no finite gradient"
            )


def _expect_close(features: np.ndarray, expected: np.ndarray, where: str, tolerance: float) -> None:
    scale = max(float(np.abs(expected).max()), 1e-30)
    difference = float(np.abs(features - expected).max()) / scale
    allowed = "they must be equal" if not tolerance else f"{tolerance:.1e} is allowed"
    expect(
        difference <= tolerance,
        f"the features of an input differ when it is encoded {where} (by {difference:.1e} of the largest; {allowed}): "
        "encode inputs one by one, or declare batch_tolerance in its record",
    )


CHECKS: tuple[Check[list[BackboneCase]], ...] = (
    has_the_interface,
    gives_finite_float32_features,
    takes_no_inputs_at_all,
    repeats_itself_exactly,
    reads_each_input_by_itself,
    keeps_its_results,
    has_plain_data_as_identity,
    provides_what_it_claims,
    counts_its_tokens,
    is_trained_through_its_module,
    learns_through_its_module,
)
