"""Small runs that teach a tiny language model."""

from pathlib import Path
from typing import Any

import numpy as np
from tiny_models import TinyModel

from bitrl.core.records import EnvironmentRecord
from bitrl.core.registry import registry

RECORD = EnvironmentRecord(
    name="even-signs",
    summary="prompts of which any completion is better or worse",
    target="bitrl.testing.small_environments:PromptsEnvironment",
    defaults={"run.serializer": "prompt"},
)
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fp32": ({"weights": "F32", "architecture": "llama"}, {"algo.rollout": "int8", "algo.kl": "k3"}),
    "bf16": ({"weights": "F32", "architecture": "qwen3", "width": 64}, {"algo.top_k": 20, "algo.uaq_scale": 1.5}),
    "int8": ({"weights": "F32", "architecture": "llama"}, {"algo.rollout": "int4"}),
    "bitnet": ({"width": 256, "ffn": 256, "blocks": 1}, {"algo.rollout": "ternary"}),
    "fp32 with adapters": (
        {"weights": "F32", "architecture": "llama"},
        {"algo.rollout": "int8", "backbone.lora_rank": 4},
    ),
    "bitnet with adapters": ({"width": 256, "ffn": 256, "blocks": 1}, {"backbone.lora_rank": 4}),
}
"""The backbone (and how it learns) → the shape of its model, and what else the run sets."""


def install(monkeypatch: Any) -> None:
    """Let the prompt environment be found by its name."""
    entries = registry().entries
    entry = type(entries["environment"][0])("test", RECORD)
    monkeypatch.setitem(entries, "environment", [*entries["environment"], entry])


def settings(folder: Path, kind: str, **run: Any) -> dict[str, Any]:
    """The arguments of `bitrl.run` of a kind; its model is in the folder."""
    shape, options = KINDS[kind]
    folder.mkdir(exist_ok=True)
    model = TinyModel(**{"width": 48, "ffn": 80, **shape})
    if kind.startswith("bitnet"):  # or it would say its last token again and again, whatever it learns
        model.embedding = (model.embedding * 0.1).astype(np.float16)
    ends = {"tokenizer.ggml.eos_token_id": 299}
    path = model.write(folder / f"{kind.replace(' ', '-')}.gguf", changes=ends)
    values = {
        "run.num_envs": 8, "run.eval_episodes": 4, "run.checkpoint_every": 1, "algo.group_size": 4,
        "algo.max_tokens": 6, "algo.learning_rate": 1e-2, "backbone.model": str(path), "backbone.threads": 1,
    }  # fmt: skip
    return {
        "env": RECORD.name, "algo": "grpo", "backbone": kind.split()[0], "steps": 32, "options": {**values, **options},
        **run,
    }  # fmt: skip
