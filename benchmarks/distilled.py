"""What distilling from a larger model gives beside training alone: numbers, words and speed.

python benchmarks/distilled.py --model smollm2-ternary.gguf

The model is the one that `bitrl model pull smollm2-ternary` shows how to make: SmolLM2-135M's first blocks as ternary
ones. Beside it stand the ternary starter model, which was trained alone, and the teacher's same blocks at 8 bits.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from record import save

from bitrl.core.acting.loading import load_backbone
from bitrl.core.config import resolve
from bitrl.core.environments.loading import load_serializer
from bitrl.core.environments.random_play import observations_of
from bitrl.core.runs.parts import build
from bitrl.plugins.backbones.language_model import starter_path
from bitrl.plugins.backbones.tools.probe import probe
from bitrl.plugins.backbones.training.pretraining.language import mission_objects, possible_commands
from bitrl.plugins.backbones.training.pretraining.measure import PROBED

ENVS = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Pendulum-v1")
SERIALIZER, LAYERS = "json", 3
BATCH, ROUNDS = 16, 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the distilled one")
    parser.add_argument("--teacher", default="smollm2-135m")
    known = parser.parse_args()
    readers = {
        "starter": ("bitnet", {"model": str(starter_path(ternary=True))}),
        "distilled": ("bitnet", {"model": str(known.model)}),
        "teacher": ("int8", {"model": known.teacher, "layers": LAYERS}),
    }
    found: dict[str, dict[str, object]] = {}
    for name, speed in speeds(readers).items():
        found[name] = {"states_per_second": round(speed)}
        print(name, found[name], flush=True)
    for name, (backbone, options) in readers.items():
        found[name] |= kept(backbone, options)
        print(name, found[name], flush=True)
    save("distilled", found)


def kept(backbone: str, options: dict[str, object]) -> dict[str, object]:
    """How well numbers (mean R² after the last block, random play) and words (accuracy) are decoded linearly."""
    numbers = {}
    for env in ENVS:
        named = {"env": env, "backbone": backbone, "serializer": SERIALIZER}
        parts = build(resolve({"run": named, "backbone": {**options, "cache_mb": 0}}))
        numbers[env] = round(probe(parts, (env, SERIALIZER), "random", ["mean"], PROBED, 0).scores[-1].mean, 4)
    encode = load_backbone(backbone, cache_mb=0.0, **options).encode
    commands, other_foods = possible_commands(encode)
    words = {
        "the object that a BabyAI mission names": mission_objects(encode),
        "whether a TextWorld command can be given": commands,
        "the same with other foods": other_foods,
    }
    return {"r_squared": numbers, "right": {question: round(each.accuracy, 4) for question, each in words.items()}}


def speeds(readers: dict[str, tuple[str, dict[str, object]]]) -> dict[str, float]:
    """CartPole states per second in batches on one thread, tokenising included, interleaved."""
    environment = build(resolve({"run": {"env": "CartPole-v1"}})).environment
    texts = load_serializer(SERIALIZER, env="CartPole-v1").batch(observations_of(environment, 20 * BATCH))
    models = {
        name: load_backbone(backbone, cache_mb=0.0, threads=1, **options)
        for name, (backbone, options) in readers.items()
    }
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name, model in models.items():
            began = time.perf_counter()
            for start in range(0, len(texts), BATCH):
                model.encode(texts[start : start + BATCH])
            times[name].append(time.perf_counter() - began)
    return {name: len(texts) / statistics.median(found) for name, found in times.items()}


if __name__ == "__main__":
    main()
