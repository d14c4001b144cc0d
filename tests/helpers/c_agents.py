"""Agents as the C library runs them, and pairs of agents, of Python and of C, that were never trained."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from c_programs import agent_library

from bitrl.core.acting import agents, c_agents
from bitrl.core.acting.history import newest_of
from bitrl.core.acting.loading import build_backbone, build_serializer
from bitrl.core.acting.policies import Continuous, Discrete, Network
from bitrl.core.interfaces import ObservationSpec
from bitrl.core.options import parse
from bitrl.core.registry import registry


class CAgent:
    """An agent's file, run by the library. Errors are ValueErrors."""

    def __init__(self, path: Path, threads: int = 0, isa: str | None = None):
        self.library = agent_library()
        for name in ("text", "facts", "example", "instruction_set"):
            getattr(self.library, f"bitrl_agent_{name}").restype = ctypes.c_char_p
        for name in ("numbers", "choices", "actions", "json_bytes"):
            getattr(self.library, f"bitrl_agent_{name}").restype = ctypes.c_size_t
        self.handle, self.error = ctypes.c_void_p(), ctypes.create_string_buffer(256)

        class Options(ctypes.Structure):
            _fields_ = (("threads", ctypes.c_uint), ("isa", ctypes.c_char_p))

        options = Options(threads, isa.encode() if isa else None)
        self._check(
            self.library.bitrl_agent_open(
                str(path).encode(), ctypes.byref(options), ctypes.byref(self.handle), self.error
            )
        )

    def __del__(self) -> None:
        self.library.bitrl_agent_close(self.handle)

    def _check(self, status: int) -> None:
        if status:
            raise ValueError(self.error.value.decode(errors="replace"))

    def act(self, observation: Any) -> Any:
        """The action for plain data."""
        return json.loads(self.act_json(json.dumps(observation).encode()))

    def act_json(self, text: bytes) -> str:
        """The answer to a line."""
        answer = ctypes.c_char_p()
        self._check(
            self.library.bitrl_agent_act_json(
                self.handle, text, ctypes.c_size_t(len(text)), ctypes.byref(answer), self.error
            )
        )
        return (answer.value or b"").decode()

    def act_numbers(self, numbers: Sequence[float], mask: Sequence[int] | None = None) -> list[float]:
        """The action for a row of numbers."""
        given = (ctypes.c_double * len(numbers))(*numbers)
        admitted = None if mask is None else (ctypes.c_uint8 * len(mask))(*mask)
        out = (ctypes.c_double * self.library.bitrl_agent_actions(self.handle))()
        self._check(self.library.bitrl_agent_act(self.handle, given, admitted, out, self.error))
        return [*out]

    @property
    def text(self) -> str:
        """What the model read last."""
        found: bytes = self.library.bitrl_agent_text(self.handle)
        return found.decode()


@attrs.frozen
class Pair:
    """The same agent twice, and the texts that the one of Python has read."""

    python: agents.Agent
    c: CAgent
    files: tuple[Path, Path]


def pair(
    folder: Path,
    spec: ObservationSpec,
    example: np.ndarray,
    serializer: str = "json",
    options: Mapping[str, Any] | None = None,
    backbone: Mapping[str, Any] | None = None,
    *,
    format: str = "bitnet",
    outputs: int = 3,
    box: tuple[np.ndarray, np.ndarray] | None = None,
    history: int = 1,
    history_tokens: int = 512,
    state: Mapping[str, np.ndarray] | None = None,
) -> Pair:
    """An agent with random heads. `backbone`: options of the language model; None: it reads vectors. `box`: bounds of
    its actions; None: it chooses among `outputs`.
    """
    record = registry().find("serializer", serializer)
    settings = parse(record.options, dict(options or {}), "serializer")
    made = build_serializer(record, settings, spec, history)
    if state is not None:
        made.load_state(state)
    reads, identity = None, {}
    if backbone is not None:
        found = registry().find("backbone", format)
        reads = build_backbone(found, parse(found.options, dict(backbone), "backbone"), record, made, spec)
        identity = {name: value for name, value in reads.identity.items() if value is not None}
        if history > 1:
            made.limit(reads.token_counts, history_tokens)
    width = made.width if reads is None else reads.width
    rng = np.random.default_rng(0)

    def layer(inputs: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(0, inputs**-0.5, (count, inputs)).astype(np.float32), rng.normal(size=count).astype(
            np.float32
        )

    count = outputs if box is None else box[0].size
    moments = rng.normal(size=width).astype(np.float32), rng.uniform(0.5, 2, width).astype(np.float32)
    network = Network(*moments, 10.0, (layer(width, 24), layer(24, count)))
    policy = Discrete(network, np.int64(5)) if box is None else Continuous(network, *box)
    facts = {
        "env": spec.env,
        "step": 1,
        "serializer": {"name": serializer, "options": attrs.asdict(settings)},
        "backbone": None if backbone is None else {"name": format, "options": dict(backbone)},
        "identity": identity,
        "history": history,
        "history_tokens": history_tokens,
        "observation": attrs.asdict(spec),
        "versions": {},
    }
    example = newest_of(example, 1)
    learned = {f"serializer.{name}": array for name, array in (state or {}).items()}
    if reads is not None and hasattr(reads, "learned"):
        learned |= {f"backbone.{name}": array for name, array in reads.learned().items()}
    files = folder / "agent.safetensors", folder / "agent.gguf"
    agents.write(files[0], facts, policy, learned, example)
    c_agents.write(files[1], facts, made, reads, spec, policy, example)
    return Pair(agents.load_agent(files[0]), CAgent(files[1]), files)
