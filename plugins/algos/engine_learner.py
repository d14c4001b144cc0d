"""Small networks that learn in the C engine, without torch: passes, gradients of losses, and Adam (csrc/learning.c).

Arrays are float32 and contiguous, shared with the engine and never copied. Results have the same bits on every CPU and
with any number of threads. Shapes: B samples, k outputs or choices, d inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from bitrl._engine import ffi, lib
from bitrl.core.errors import RunFailed, UsageError

_ERROR_BYTES = 256
_FLOAT, _INT64, _BOOL = np.dtype(np.float32), np.dtype(np.int64), np.dtype(np.bool_)


class EngineLearner:
    """Threads of the engine that networks and losses are computed with, one call at a time.

    `threads` from 1 on; work too small for them takes fewer. `isa` forces an instruction set of the engine.
    """

    def __init__(self, threads: int = 1, isa: str = "auto"):
        self.error = ffi.new("char[]", _ERROR_BYTES)
        opened, learner = ffi.new("bitrl_threads **"), ffi.new("bitrl_learner **")
        self.check(lib.bitrl_threads_open(max(threads, 0), opened, self.error))
        self.threads = ffi.gc(opened[0], lib.bitrl_threads_close)
        self.check(lib.bitrl_learner_open(self.threads, isa.encode(), learner, self.error))
        self.handle = ffi.gc(learner[0], lib.bitrl_learner_close)

    def check(self, status: int) -> None:
        """Raise UsageError with the engine's message unless `status` is OK; MemoryError if memory has run out."""
        _check(status, self.error)


class LearnedPart(Protocol):
    """Something that learns: a network, a head, a torch module."""

    @property
    def size(self) -> int:
        """How many numbers it learns."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Of its layers, if it is a chain of linear ones (EngineNetwork); else none."""

    def use(self, parameters: np.ndarray, gradients: np.ndarray) -> None:
        """Keep what is learned, as it is, and the loss's gradient by it in these arrays from now on, float32 [size]."""


class Beneath(LearnedPart, Protocol):
    """What makes a network's inputs and learns with it (torch_module.py)."""

    def forward(self, inputs: Any) -> np.ndarray:
        """Inputs of B samples → the network's, float32 [B, d], to go back from."""

    def outputs(self, inputs: Any) -> np.ndarray:
        """The same, with nothing to go back from."""

    def backward(self, by_outputs: np.ndarray) -> None:
        """Set its own gradients from that by the network's inputs [B, d]."""

    @property
    def matrices(self) -> list[np.ndarray]:
        """Its weight matrices."""

    def tanh_layers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Weights [inputs, outputs] and biases of its layers, each with tanh after it; UsageError if it has others."""


class EngineNetwork:
    """Linear layers with tanh between them.

    Attributes:
        widths: d, of each hidden layer, k.
        size: P, how many weights and biases it has.
        parameters: these, float32 [P]: a layer's weights [inputs, outputs], then its biases.
        gradients: a loss's gradient by these, float32 [P]; set by `backward`.
        layers: of each layer, views of its weights and biases.
        beneath: what makes the inputs of what it is given, and learns with it; None: it is given them.
    """

    def __init__(
        self,
        learner: EngineLearner,
        widths: Sequence[int],
        batch: int,
        parameters: np.ndarray | None = None,
        gradients: np.ndarray | None = None,
        beneath: Beneath | None = None,
    ):
        """`batch`: the most samples that are learned from at once. Parameters and gradients may be slices of larger
        arrays, which an optimiser then steps as one.

        Raises:
            UsageError: a width below 1, or arrays of another length or type.
        """
        self.learner, self.widths, self.batch, self.beneath = learner, tuple(widths), 0, beneath
        if len(self.widths) < 2 or min(self.widths) < 1 or batch < 1:
            raise UsageError(f"expected widths and a batch of at least 1, got {list(self.widths)} and {batch}")
        self._pass = ffi.new("bitrl_pass *")
        self._inputs: Any = None
        self.make_room(batch)
        self.size = parameter_count(self.widths)
        self._keep(
            np.zeros(self.size, _FLOAT) if parameters is None else parameters,
            np.zeros(self.size, _FLOAT) if gradients is None else gradients,
        )

    def make_room(self, batch: int) -> None:
        """Let as many samples be learned from at once, if it was fewer; a forward pass before is forgotten."""
        if batch <= self.batch:
            return
        network, learner = ffi.new("bitrl_network **"), self.learner
        learner.check(
            lib.bitrl_network_open(learner.handle, self.widths, len(self.widths) - 1, batch, network, learner.error)
        )
        self.handle, self.batch, self._inputs = ffi.gc(network[0], lib.bitrl_network_close), batch, None
        self._pass.network = self.handle

    def use(self, parameters: np.ndarray, gradients: np.ndarray) -> None:
        """Keep the weights and biases, as they are, and their gradients in these arrays from now on, float32 [P]."""
        before = self.parameters
        self._keep(parameters, gradients)
        parameters[:] = before

    def _keep(self, parameters: np.ndarray, gradients: np.ndarray) -> None:
        self.parameters, self.gradients = (_expect(each, (self.size,)) for each in (parameters, gradients))
        self.layers: list[tuple[np.ndarray, np.ndarray]] = []
        at = 0
        for inputs, outputs in pairwise(self.widths):
            weights = parameters[at : at + inputs * outputs].reshape(inputs, outputs)
            at += inputs * outputs
            self.layers.append((weights, parameters[at : at + outputs]))
            at += outputs
        self._kept = [floats(parameters), floats(gradients)]  # what the pass points to
        self._pass.parameters, self._pass.gradients = self._kept

    @property
    def matrices(self) -> list[np.ndarray]:
        """The weights of all layers, and those of what is beneath: views."""
        return [*([] if self.beneath is None else self.beneath.matrices), *(weights for weights, _ in self.layers)]

    def initialise(self, gain: float, seed: int) -> None:
        """Orthogonal weights (gain √2, the last layer's `gain`) and biases of zero, the same on every machine."""
        for index, (weights, biases) in enumerate(self.layers):
            last = index == len(self.layers) - 1
            inputs, outputs = weights.shape
            weights[:], biases[:] = orthogonal(inputs, outputs, gain if last else math.sqrt(2), seed + index), 0.0

    def forward(self, inputs: np.ndarray) -> np.ndarray:
        """Inputs [B, d] → outputs [B, k]. The inputs must not change until `backward`."""
        return forward([self], [inputs])[0]

    def outputs(self, inputs: np.ndarray, prepare: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
        """Inputs [n, d] → outputs [n, k], of any number of samples, a batch at a time: nothing to go back from.

        `prepare` makes inputs of what is given, row by row (standardisation), so that all of them are never held.
        """
        if self.beneath is not None:
            inputs = self.beneath.outputs(inputs if prepare is None else prepare(inputs))
            prepare = None
        batches = (inputs[at : at + self.batch] for at in range(0, len(inputs), self.batch))
        parts = [_forward([self], [each if prepare is None else prepare(each)])[0] for each in batches]
        self._inputs = None
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty((0, self.widths[-1]), _FLOAT)

    def backward(self, by_outputs: np.ndarray, by_inputs: bool = False) -> np.ndarray | None:
        """Set `gradients` from a loss's gradient by the outputs [B, k] of the last `forward`; return the gradient by
        its inputs [B, d] if that is asked for.
        """
        return backward([self], [by_outputs], by_inputs)[0]


def forward(networks: Sequence[EngineNetwork], inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """`EngineNetwork.forward` of different networks of one learner, together: as many threads work as there are
    networks without waiting for each other.
    """
    pairs = zip(networks, inputs, strict=True)
    return _forward(networks, [each if own.beneath is None else own.beneath.forward(each) for own, each in pairs])


def _forward(networks: Sequence[EngineNetwork], inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    learner, outputs = networks[0].learner, []
    for network, given in zip(networks, inputs, strict=True):
        _expect(given, (len(given), network.widths[0]))
        outputs.append(np.empty((len(given), network.widths[-1]), _FLOAT))
        network._inputs = floats(given)
        network._kept[2:] = [floats(outputs[-1])]
        network._pass.inputs, network._pass.outputs = network._inputs, network._kept[2]
        network._pass.samples = len(given)
    learner.check(
        lib.bitrl_networks_forward(
            learner.handle, [network._pass for network in networks], len(networks), learner.error
        )
    )
    return outputs


def backward(
    networks: Sequence[EngineNetwork], by_outputs: Sequence[np.ndarray], by_inputs: bool = False
) -> list[np.ndarray | None]:
    """`EngineNetwork.backward` of different networks of one learner, together."""
    learner, gradients = networks[0].learner, []
    for network, given in zip(networks, by_outputs, strict=True):
        if network._inputs is None:
            raise UsageError("expected a forward pass before each backward pass")
        samples = network._pass.samples
        wanted = by_inputs or network.beneath is not None
        gradient = np.empty((samples, network.widths[0]), _FLOAT) if wanted else None
        network._kept[2:] = [floats(_expect(given, (samples, network.widths[-1])))]
        network._pass.by_outputs = network._kept[2]
        network._pass.by_inputs = ffi.NULL if gradient is None else floats(gradient)
        gradients.append(gradient)
    learner.check(
        lib.bitrl_networks_backward(
            learner.handle, [network._pass for network in networks], len(networks), learner.error
        )
    )
    for network, gradient in zip(networks, gradients, strict=True):
        network._inputs = None
        if network.beneath is not None and gradient is not None:
            network.beneath.backward(gradient)
    return gradients


class EngineAdam:
    """Adam (Kingma & Ba 2015, arXiv 1412.6980, algorithm 1) on arrays of parameters, each with a learning rate of its
    own, after clipping each one's gradient.

    Attributes:
        parameters, gradients: float32 [P] each, at most 8 of them.
        means, squares: their moments, likewise.
        steps: how many each has taken.
    """

    def __init__(
        self,
        learner: EngineLearner,
        parameters: Sequence[np.ndarray],
        gradients: Sequence[np.ndarray],
        eps: float = 1e-8,
    ):
        self.learner, self.parameters, self.gradients = learner, list(parameters), list(gradients)
        self.means, self.squares = ([np.zeros_like(each) for each in parameters] for _ in range(2))
        self.steps = [0] * len(self.parameters)
        self._kept, self._steps = [], []
        for arrays in zip(self.parameters, self.gradients, self.means, self.squares, strict=True):
            pointers = [floats(_expect(each, arrays[0].shape)) for each in arrays]
            step = ffi.new("bitrl_adam_step *", {"size": arrays[0].size, "eps": eps})
            step.parameters, step.gradients, step.means, step.squares = pointers
            self._kept.append(pointers)
            self._steps.append(step)

    def step(self, rates: Sequence[float], max_norm: float | None) -> list[float]:
        """Change all parameters by one step against their gradients, each scaled down to a norm of `max_norm` where it
        is larger; return the norms before that. The gradients stay as they are.

        Raises:
            RunFailed: one of the gradients is not finite; nothing has changed.
        """
        for step, taken, rate in zip(self._steps, self.steps, rates, strict=True):
            step.step, step.rate, step.max_norm = taken + 1, rate, math.inf if max_norm is None else max_norm
        status = lib.bitrl_adam(self.learner.handle, self._steps, len(self._steps), self.learner.error)
        if status == lib.BITRL_BAD_RESULT:
            raise RunFailed("a gradient is not a finite number: the step is discarded; try a smaller learning rate")
        self.learner.check(status)
        self.steps = [taken + 1 for taken in self.steps]
        return [step.norm for step in self._steps]


class EngineCategorical:
    """Discrete actions: outputs are logits [B, k], of which a mask [B, k] may admit some only."""

    def __init__(self, learner: EngineLearner):
        self.learner = learner
        self._shape = (0, 0)

    def forward(
        self, logits: np.ndarray, actions: np.ndarray, mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of `actions` (int64 [B]) and entropies, [B]. What the mask (bool) does not admit has
        probability zero.

        Raises:
            UsageError: an action that there is not, or a state without any.
        """
        samples, choices = logits.shape
        if logits.shape != self._shape:
            self._distribution, self._logarithms = (floats(np.empty(logits.shape, _FLOAT)) for _ in range(2))
            self._shape = samples, choices
        log_probs, self._entropies = np.empty(samples, _FLOAT), np.empty(samples, _FLOAT)
        self._actions = ffi.from_buffer("int64_t[]", _expect(actions, (samples,), _INT64))
        self.learner.check(
            lib.bitrl_categorical(
                self.learner.handle,
                floats(_expect(logits, self._shape)),
                ffi.NULL if mask is None else ffi.from_buffer("uint8_t[]", _expect(mask, self._shape, _BOOL)),
                self._actions,
                samples,
                choices,
                self._distribution,
                self._logarithms,
                floats(log_probs),
                floats(self._entropies),
                self.learner.error,
            )
        )
        return log_probs, self._entropies

    def backward(self, by_log_probs: np.ndarray, by_entropies: float) -> np.ndarray:
        """The loss's gradient by the logits [B, k] of the last `forward`, from that by the log-probabilities [B] and
        that by each entropy.
        """
        by_logits = np.empty(self._shape, _FLOAT)
        lib.bitrl_categorical_backward(
            self._distribution,
            self._logarithms,
            floats(self._entropies),
            self._actions,
            *self._shape,
            floats(_expect(by_log_probs, self._shape[:1])),
            by_entropies,
            floats(by_logits),
        )
        return by_logits


class EngineGaussian:
    """Continuous actions: outputs are the means [B, k] of a diagonal Gaussian; log standard deviations [k] are learned.

    Attributes:
        log_std, by_log_std: the log standard deviations, and the loss's gradient by them, float32 [k].
    """

    def __init__(self, learner: EngineLearner, log_std: np.ndarray, by_log_std: np.ndarray):
        self.learner = learner
        self.log_std, self.by_log_std = _expect(log_std, log_std.shape), _expect(by_log_std, log_std.shape)
        self.std = np.ones_like(log_std)

    def forward(self, means: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of `actions` (float32 [B, k]) and entropies, [B]."""
        samples, dims = _expect(means, (len(means), len(self.log_std))).shape
        self.standard = np.empty_like(means)
        log_probs, entropies = np.empty(samples, _FLOAT), np.empty(samples, _FLOAT)
        lib.bitrl_gaussian(
            self.learner.handle,
            floats(means),
            floats(self.log_std),
            floats(_expect(actions, means.shape)),
            samples,
            dims,
            floats(self.standard),
            floats(self.std),
            floats(log_probs),
            floats(entropies),
        )
        return log_probs, entropies

    def backward(self, by_log_probs: np.ndarray, by_entropies: float) -> np.ndarray:
        """The loss's gradient by the means [B, k] of the last `forward`; sets that by the log standard deviations."""
        by_means = np.empty_like(self.standard)
        lib.bitrl_gaussian_backward(
            floats(self.standard),
            floats(self.std),
            *by_means.shape,
            floats(_expect(by_log_probs, (len(by_means),))),
            by_entropies,
            floats(by_means),
            floats(self.by_log_std),
        )
        return by_means


class EngineChoice:
    """Text actions: a command's logit is the product of a query [B, k], the policy network's outputs, and of its key
    [C, k], which another network makes of its features; divided by √k.
    """

    def __init__(self, learner: EngineLearner):
        self.learner, self.categorical = learner, EngineCategorical(learner)

    def forward(
        self, queries: np.ndarray, keys: np.ndarray, places: np.ndarray, mask: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of `actions` (int64 [B]) and entropies, [B]. `places`: which of the keys each choice has,
        int64 [B, most]; `mask`: whether there is that choice, bool [B, most].
        """
        return self.categorical.forward(self.logits(queries, keys, places), actions, mask)

    def logits(self, queries: np.ndarray, keys: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Those of the choices, float32 [B, most]."""
        self.queries, self.keys = _expect(queries, queries.shape), _expect(keys, (len(keys), queries.shape[1]))
        self.places = _expect(places, (len(queries), places.shape[1]), _INT64)
        self.pairs, logits = np.empty((len(queries), len(keys)), _FLOAT), np.empty(places.shape, _FLOAT)
        self.learner.check(
            lib.bitrl_choice_logits(
                self.learner.handle,
                floats(queries),
                floats(keys),
                ffi.from_buffer("int64_t[]", places),
                *queries.shape,
                len(keys),
                places.shape[1],
                floats(self.pairs),
                floats(logits),
                self.learner.error,
            )
        )
        return logits

    def backward(self, by_log_probs: np.ndarray, by_entropies: float) -> tuple[np.ndarray, np.ndarray]:
        """The loss's gradients by the queries [B, k] and keys [C, k] of the last `forward`."""
        by_logits = self.categorical.backward(by_log_probs, by_entropies)
        by_queries, by_keys = np.empty_like(self.queries), np.empty_like(self.keys)
        lib.bitrl_choice_backward(
            self.learner.handle,
            floats(self.queries),
            floats(self.keys),
            ffi.from_buffer("int64_t[]", self.places),
            *self.queries.shape,
            len(self.keys),
            self.places.shape[1],
            floats(by_logits),
            floats(self.pairs),
            floats(by_queries),
            floats(by_keys),
        )
        return by_queries, by_keys


class SampleCorrection(NamedTuple):
    """What corrects PPO's objective for samples of another policy, all [B]: see estimators.py's w, r and kept."""

    weight: np.ndarray
    r: np.ndarray
    kept: np.ndarray

    def take(self, index: Any) -> SampleCorrection:
        """That of the samples at `index`."""
        return SampleCorrection(*(each[index] for each in self))


class ClippedLoss(NamedTuple):
    """PPO's clipped loss and what is reported beside it, means over the samples that are kept; and the loss's gradient
    by the log-probabilities, float32 [B].
    """

    by_log_probs: np.ndarray
    loss: float
    approx_kl: float
    clip_fraction: float


def clipped_loss(
    learner: EngineLearner,
    log_probs: np.ndarray,
    old_log_probs: np.ndarray,
    advantages: np.ndarray,
    clip: float,
    correction: SampleCorrection | None = None,
) -> ClippedLoss:
    """−E[min(r·A, clip(r, 1−ε, 1+ε)·A)] of standardised advantages (a single one is unchanged), all float32 [B].

    Of corrected samples, weights multiply the advantages, 1+ε is divided by r, and rejected ones are left out of the
    mean; a log-ratio beyond ±20 has no gradient (estimators.py).
    """
    shape = (len(log_probs),)
    by_log_probs, found = np.empty(shape, _FLOAT), ffi.new("bitrl_clipped *")
    weight, r, kept = ffi.NULL, ffi.NULL, ffi.NULL
    if correction is not None:
        weight, r = floats(_expect(correction.weight, shape)), floats(_expect(correction.r, shape))
        kept = ffi.from_buffer("uint8_t[]", _expect(correction.kept, shape, _BOOL))
    lib.bitrl_clipped_loss(
        learner.handle,
        floats(_expect(log_probs, shape)),
        floats(_expect(old_log_probs, shape)),
        floats(_expect(advantages, shape)),
        weight,
        r,
        kept,
        len(log_probs),
        clip,
        floats(by_log_probs),
        found,
    )
    return ClippedLoss(by_log_probs, found.loss, found.approx_kl, found.clip_fraction)


def squared_loss(values: np.ndarray, returns: np.ndarray, coefficient: float) -> tuple[float, np.ndarray]:
    """The mean of (V − R)², and the gradient of `coefficient` times that by the values, float32 like them: [B, 1]."""
    by_values = np.empty_like(values)
    loss = lib.bitrl_squared_loss(
        floats(_expect(values, (len(returns), 1))),
        floats(_expect(returns, (len(returns),))),
        len(returns),
        coefficient,
        floats(by_values),
    )
    return loss, by_values


def orthogonal(inputs: int, outputs: int, gain: float, seed: int) -> np.ndarray:
    """Random weights float32 [inputs, outputs] with orthonormal columns, or rows where these are fewer, times `gain`;
    the same on every machine.
    """
    weights, error = np.empty((inputs, outputs), _FLOAT), ffi.new("char[]", _ERROR_BYTES)
    _check(lib.bitrl_orthogonal(floats(weights), inputs, outputs, gain, seed % 2**64, error), error)
    return weights


def parameter_count(widths: Sequence[int]) -> int:
    """How many weights and biases layers of these widths have."""
    return sum((inputs + 1) * outputs for inputs, outputs in pairwise(widths))


def floats(array: np.ndarray) -> Any:
    """The engine's pointer to a float32 array, which must be contiguous; it keeps the array alive."""
    return ffi.from_buffer("float[]", array)


def _check(status: int, error: Any) -> None:
    if status != lib.BITRL_OK:
        message = ffi.string(error).decode(errors="replace")
        raise MemoryError(message) if status == lib.BITRL_NO_MEMORY else UsageError(message)


def _expect(array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any] = _FLOAT) -> np.ndarray:
    """The array, if it has this shape and type and lies in one piece.

    Raises:
        UsageError: it is another.
    """
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        raise UsageError(
            f"expected a contiguous array of {dtype.name} {list(shape)}, got {array.dtype.name} {list(array.shape)}"
        )
    return array
