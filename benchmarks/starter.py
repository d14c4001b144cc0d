"""The starter pair in every precision: how well numbers and words of a state are decoded linearly.

python benchmarks/starter.py

The precision ladder before any learning: `bitnet` reads the ternary starter model; `bf16`, `int8` and `int4` read its
full-precision twin. Environments, serializers and protocol are those of the model cards.
"""

from __future__ import annotations

import statistics

from record import save

from bitrl.plugins.backbones.language_model import starter_path
from bitrl.plugins.backbones.training.pretraining.environment_texts import TEXT_ENVIRONMENTS
from bitrl.plugins.backbones.training.pretraining.measure import judged, readings

ENVS = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
BACKBONES = ("bitnet", "int8", "int4", "bf16")


def main() -> None:
    results = {}
    for backbone in BACKBONES:
        model = starter_path(ternary=backbone == "bitnet")
        found = readings(backbone, model, ENVS)
        words = judged(backbone, model, TEXT_ENVIRONMENTS)
        results[backbone] = {
            "model": model.name,
            "r_squared": [
                {
                    "env": r.env,
                    "serializer": r.serializer,
                    "states": r.states,
                    "tokens": r.tokens,
                    "mean": [score.mean for score in r.scores],
                    "worst": {"name": r.scores[-1].worst, "r_squared": min(r.scores[-1].fields.values())},
                }
                for r in found
            ],
            "right": {what: {"accuracy": j.accuracy, "commonest": j.chance} for what, j in words.items()},
        }
        print(backbone, f"mean R² {statistics.fmean(r.scores[-1].mean for r in found):.4f}", flush=True)
        for r in found:
            print(f"  {r.env:<28} {r.serializer:<8} {r.states:<8} {r.tokens:6.1f} tokens  {r.scores[-1].mean:.4f}")
        for what, j in words.items():
            print(f"  {what}: {j.accuracy:.3f} ({j.chance:.3f} by the commonest answer)")
    save("starter", results)


if __name__ == "__main__":
    main()
