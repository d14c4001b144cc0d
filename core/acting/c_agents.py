"""Agents for programs without Python: one GGUF file with the policy, what reads states, and the language model.

csrc/agent runs them (`bitrl-act`, libbitrl); docs/c.md says how. Beside the keys and tensors of the model, which are
those of its own file, a file has "bitrl.agent", the plan: how observations look, the pieces of their text, how it
becomes features, and what the policy's outputs mean, as JSON; and arrays "bitrl.agent.…" and tensors "agent.…" with its
numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitrl.core.acting.admissible import COMMANDS, MASK, OBSERVATION, splits, states_of
from bitrl.core.acting.contracts import calling
from bitrl.core.acting.gguf_bytes import gguf_bytes
from bitrl.core.acting.history import History
from bitrl.core.acting.nested import FlatObservations, flat_one, is_tuple, name_of
from bitrl.core.acting.plain_observations import as_plain
from bitrl.core.acting.policies import CodebookPolicy, Continuous, Discrete, Network, Policy
from bitrl.core.errors import UsageError
from bitrl.core.files import write_atomically
from bitrl.core.interfaces import ObservationSpec, PortableBackbone, PortableSerializer
from bitrl.core.pieces import Bin, Code, Number, OneHot, Piece, Printed, Scaled, Short, Text, Whole, merged, written
from bitrl.core.wording import setting

FORMAT = 1
"""The version of the file format, which csrc/agent/agent.c checks."""
PLAN = "bitrl.agent"
"""The key of the plan."""
PORTABLE = ("json", "compact", "natural", "values", "bins", "template", "codes", "vector")
"""The built-in serializers that can, for messages."""
MOST_DIMENSIONS = 8
EXACT = 2**53
"""Integers up to here are exact in float64, which actions are held in."""

PlanPath = tuple[str | list[int], ...]
"""How the plan leads to a part of an observation: a name of a mapping, or the place in a list, with its length."""


def write(
    path: Path,
    facts: Mapping[str, Any],
    serializer: Any,
    backbone: Any,
    observation: ObservationSpec,
    policy: Policy,
    example: np.ndarray,
) -> None:
    """Write an agent's file.

    Args:
        path: the file, replaced if it exists.
        facts: see bitrl.core.acting.agents.Agent; they are shown, and "history" and "history_tokens" followed.
        serializer: as a StateReader has it.
        backbone: of texts; None where the policy reads the serializer's vectors itself.
        observation: what the serializer was built for.
        policy: one of bitrl.core.acting.policies.
        example: observations [n, ...] as the environment gives them, at least one.

    Raises:
        UsageError: a part of the agent cannot run without Python; the message names it and says what can.
        RunFailed: the file cannot be written; nothing is left behind.
    """
    keys: dict[str, Any] = {}
    tensors: dict[str, Any] = {}
    plan: dict[str, Any] = {"format": FORMAT, "history": facts["history"]}
    plan["observation"] = [*_leaves(example, observation)]
    plan |= _written(_form_of(serializer, observation, example, facts), keys)
    if "text" in plan:
        if not isinstance(backbone, PortableBackbone):
            name = (facts["backbone"] or {"name": "none"})["name"]
            raise UsageError(
                f"backbone {name} cannot run without Python: agents for C read texts by a language model, as with "
                f"{setting('backbone', 'bitnet', 'int8', 'fp32')}"
            )
        model = backbone.portable()
        keys |= model.keys
        tensors |= model.tensors
        plan["model"] = {**model.facts, "history_tokens": facts["history_tokens"]}
    elif backbone is not None:
        raise UsageError(
            f"backbone {facts['backbone']['name']} cannot run without Python: of those that read vectors, "
            f"{setting('backbone', 'mlp')} can"
        )
    plan["network"], plan["action"] = _network(policy.network, tensors), _action(policy, tensors)
    said = {PLAN: json.dumps(plan), f"{PLAN}.facts": json.dumps(dict(facts), default=str)}
    said[f"{PLAN}.example"] = json.dumps(as_plain(example[0]))
    write_atomically(path, gguf_bytes({**said, **keys}, tensors), "name another file")


def is_one(path: Path) -> bool:
    """Whether a file is an agent for C, by its first key."""
    with open(path, "rb") as file:
        head = file.read(64)
    return head[:4] == b"GGUF" and head[32 : 32 + len(PLAN)] == PLAN.encode()


# ---- observations ----


def _leaves(example: np.ndarray, spec: ObservationSpec) -> Iterator[dict[str, Any]]:
    """The parts of an observation that have no parts: those of the state first, in the serializer's order."""
    names = example.dtype.names or ()
    if splits(names) and COMMANDS in names:
        raise UsageError("agents that choose among commands cannot run without Python: they read texts at each step")
    split = splits(names)
    prefix = (OBSERVATION,) if split else ()
    wanted = list(spec.parts) or [*((name,) for name in spec.texts), *((("numbers",),) if spec.texts else ((),))]
    order = {(*prefix, *path): place for place, path in enumerate(wanted)}
    found = []
    for path, plain, dtype, shape, called in _parts(example.dtype, example.shape[1:], "observation"):
        use = "mask" if split and plain == (MASK,) else "state" if plain in order else "ignored"
        if dtype.kind not in "biufU" or dtype == np.float16 or (dtype.itemsize > 8 and dtype.kind != "U"):
            raise UsageError(f"{called} is of {dtype}, which agents for C do not read: observe float32 or float64")
        if len(shape) > MOST_DIMENSIONS:
            raise UsageError(f"{called} has {len(shape)} dimensions; agents for C read up to {MOST_DIMENSIONS}")
        kind: dict[str, Any] = {"type": dtype.name, "shape": list(shape)}
        if dtype.kind == "U":
            kind = {"type": "string", "longest": dtype.itemsize // 4}
        found.append((order.get(plain, len(order)), {"path": list(path), "called": called, **kind, "use": use}))
    # Texts are numbered in the order of the specification, as their serializer has them.
    texts = {name: place for place, name in enumerate(spec.texts)}

    def place(item: tuple[int, dict[str, Any]]) -> tuple[int, int]:
        rank, leaf = item
        name = name_of(tuple(wanted[rank])) if rank < len(wanted) else ""
        return (0, texts[name]) if leaf["type"] == "string" and name in texts else (1, rank)

    yield from (leaf for _, leaf in sorted(found, key=place))


def _parts(
    dtype: np.dtype, shape: tuple[int, ...], called: str
) -> Iterator[tuple[PlanPath, tuple[str, ...], np.dtype, tuple[int, ...], str]]:
    """Of each part without parts: its path as the plan has it, and as it is, its dtype and shape, and what errors call
    it.
    """
    if dtype.names is None:
        yield (), (), dtype, shape, called
        return
    for index, name in enumerate(dtype.names):
        step: str | list[int] = [index, len(dtype.names)] if is_tuple(dtype.names) else name
        inner = f"{called} {name}" if is_tuple(dtype.names) else f'"{name}"'
        for path, plain, kind, size, said in _parts(dtype[name].base, dtype[name].shape, inner):
            yield (step, *path), (name, *plain), kind, size, said


# ---- what is written of a state ----


def _form_of(
    serializer: Any, spec: ObservationSpec, example: np.ndarray, facts: Mapping[str, Any]
) -> Sequence[Piece] | Scaled | OneHot:
    """What the serializer of one flat state writes, which is seen to be what it says on an example."""
    state = states_of(example)[0]
    if isinstance(serializer, History):
        serializer = serializer.serializer
    if isinstance(serializer, FlatObservations):
        serializer, state = serializer.serializer, flat_one(state, serializer.parts)
    name = facts["serializer"]["name"]
    if not isinstance(serializer, PortableSerializer):
        raise UsageError(
            f'serializer "{name}" cannot be said as pieces of text and formats of numbers, which agents for C write: '
            f"{', '.join(PORTABLE[:-1])} and {PORTABLE[-1]} can"
        )
    with calling(f'serializer "{name}"'):
        form = serializer.form()
    check_form(f'serializer "{name}"', form, serializer, spec, state)
    return form


def check_form(
    who: str, form: Sequence[Piece] | Scaled | OneHot, serializer: Any, spec: ObservationSpec, state: Any
) -> None:
    """Raises UsageError, which names `who`: the serializer writes something else of a flat state than its form says."""
    numbers = np.ravel(np.asarray(state["numbers"] if spec.texts else state)).tolist() if spec.fields else []
    found = serializer(state)
    if isinstance(form, Scaled):
        said: Any = ((np.asarray(numbers) - form.middle) / form.half).astype(np.float32).tolist()
        found = found.tolist()
    elif isinstance(form, OneHot):
        said, found = numbers[0] - form.start, found.argmax()
    else:
        said = written(form, numbers, [str(state[name]) for name in spec.texts])
    if said != found:
        raise UsageError(
            f"{who} writes {str(found)[:80]!r}, and by its form() {str(said)[:80]!r}: tell its authors, and export the "
            f"agent without {setting('c')}"
        )


def _written(form: Sequence[Piece] | Scaled | OneHot, keys: dict[str, Any]) -> dict[str, Any]:
    """The part of the plan that says what is written."""
    if isinstance(form, Scaled):
        return {"vector": {"middle": _floats(form.middle), "half": _floats(form.half)}}
    if isinstance(form, OneHot):
        return {"vector": {"start": form.start, "states": form.states}}
    pieces = [*merged(form)]
    codes = [piece for piece in pieces if isinstance(piece, Code)]
    plan: dict[str, Any] = {"text": []}
    for piece in pieces:
        if isinstance(piece, str):
            plan["text"].append(piece)
        elif isinstance(piece, Code):
            plan["text"].append({"code": codes.index(piece)})
        elif isinstance(piece, Text):
            plan["text"].append({"text": piece.index, "as": piece.form})
        else:
            plan["text"].append(_number(piece))
    if codes:
        plan["codebook"] = {
            "mean": _floats(np.concatenate([code.mean for code in codes])),
            "scale": _floats(np.concatenate([code.scale for code in codes])),
            "widths": [code.codes.shape[1] for code in codes],
            "counts": [len(code.codes) for code in codes],
        }
        rows = [np.concatenate([(code.codes**2).sum(axis=1)[:, None], code.codes], axis=1) for code in codes]
        keys[f"{PLAN}.codes"] = np.concatenate([row.ravel() for row in rows]).astype(np.float64)
    return plan


def _number(piece: Number) -> dict[str, Any]:
    plan: dict[str, Any] = {"number": piece.index}
    match piece.form:
        case Printed(format):
            plan["format"] = format
        case Short(decimals, offset, scale):
            plan |= {"short": decimals, "offset": float(offset), "scale": float(scale)}
        case Bin(low, high, middle, steps, end):
            bounds = {"low": low, "high": high, "middle": middle, "steps": steps, "end": end}
            plan["bin"] = {name: float(value) for name, value in bounds.items()}
        case Whole():
            pass
    if piece.show == "size":
        plan["size"] = True
    elif piece.show != "all":
        plan["words"] = list(piece.show)
    return plan


# ---- the policy ----


def _network(network: Network, tensors: dict[str, Any]) -> dict[str, Any]:
    """The network as the engine's learner has it: layer by layer weights [inputs, outputs], then biases."""
    flat = [part for weights, biases in network.layers for part in (weights.T.ravel(), biases)]
    tensors["agent.network"] = np.concatenate(flat).astype(np.float32)
    tensors["agent.mean"] = np.asarray(network.mean, np.float32)
    tensors["agent.std"] = np.asarray(network.std, np.float32)
    widths = [len(network.mean), *(len(biases) for _, biases in network.layers)]
    return {"widths": widths, "limit": network.limit if math.isfinite(network.limit) else None}


def _action(policy: Policy, tensors: dict[str, Any]) -> dict[str, Any]:
    if isinstance(policy, Discrete):
        return {"kind": "discrete", "start": int(policy.start)}
    if isinstance(policy, Continuous):
        return {"kind": "continuous", **_box(policy.low, policy.high)}
    if isinstance(policy, CodebookPolicy):
        tensors["agent.values"] = np.asarray(policy.values, np.float32).ravel()
        return {"kind": "codebook", "each": policy.values.shape[1], **_box(policy.low, policy.high)}
    raise UsageError(
        "actions of several parts, and choices among commands, cannot run without Python: agents for C act in "
        "Discrete and Box spaces"
    )


def _box(low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    kind = {"f": low.dtype.name, "i": "integer", "u": "integer", "b": "bool"}[low.dtype.kind]
    too_large = kind == "integer" and max(abs(int(low.min())), abs(int(high.max()))) > EXACT
    if kind == "float16" or too_large or low.ndim > MOST_DIMENSIONS:
        raise UsageError(
            f"actions of {low.dtype} with {low.ndim} dimensions and these bounds cannot run without Python: agents for "
            f"C act in Box spaces of float32, float64, or integers up to 2^53, of up to {MOST_DIMENSIONS} dimensions"
        )
    bounds = {"low": _floats(low.ravel()), "high": _floats(high.ravel())}
    return {"type": kind, "shape": list(low.shape), **bounds}


def _floats(values: Any) -> list[float | None]:
    """Numbers as JSON has them; those that are not finite as null."""
    return [value if math.isfinite(value) else None for value in np.asarray(values, np.float64).tolist()]
