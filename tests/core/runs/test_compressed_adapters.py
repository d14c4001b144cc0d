"""`bitrl export --bitdelta`: what is stored, what acts by it, and that the cost is said truly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitrl
from bitrl.core.acting import agents, checkpoints
from bitrl.core.acting.checkpoints import Checkpoint, with_prefix
from bitrl.core.errors import UsageError
from bitrl.core.runs.compressed_adapters import MOST_TEXTS

BACKBONE = {"lora_rank": 2, "lora_targets": ("v",), "layers": 1, "threads": 1}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with a run, its agent with adapters in full and as BitDelta, and what the latter's export returned."""
    folder = tmp_path_factory.mktemp("bitdelta")
    options: dict[str, Any] = {f"backbone.{name}": value for name, value in BACKBONE.items()}
    options |= {"run.num_envs": 8, "run.eval_episodes": 0, "run.eval_max_steps": 30, "algo.adapter_learning_rate": 0.01}
    options |= {"algo.rollout_steps": 32, "algo.minibatch_size": 16, "algo.epochs": 1, "algo.learning_rate": 0.01}
    bitrl.run(backbone="bitnet", serializer="compact", steps=64, out=folder / "run", options=options)
    bitrl.export(folder / "run", folder / "full")
    return folder, bitrl.export(folder / "run", folder / "bits", bitdelta=True, episodes=2)


def learned_of(path: Path) -> dict[str, np.ndarray]:
    return with_prefix(agents.read(path).arrays, "backbone.")


def test_one_bit_of_each_weight_is_stored_and_acts(exported: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = exported
    packed, learned = learned_of(folder / "bits"), learned_of(folder / "full")
    base = bitrl.load_backbone("bitnet", **BACKBONE).learned()
    by_hand = {}
    for name, array in learned.items():
        change = array - base[name]
        assert np.abs(change).max() > 0
        scale = float(packed[f"{name}.scale"])
        assert scale == pytest.approx(np.abs(change).mean(), rel=3)
        by_hand[name] = (base[name] + np.where(change >= 0, scale, -scale)).astype(np.float32)
        assert packed[f"{name}.signs"].nbytes == array.size / 8
    assert len(packed) == 2 * len(learned)

    backbone = bitrl.load_backbone("bitnet", **BACKBONE)
    agent = bitrl.load_agent(folder / "bits")
    texts = ["x=0.1 y=2", "cart at 0.25"]
    backbone.load_learned(learned)
    in_full = backbone.encode(texts)
    backbone.load_learned(by_hand)
    np.testing.assert_array_equal(agent.reader.backbone.encode(texts), backbone.encode(texts))
    assert not np.array_equal(backbone.encode(texts), in_full)
    assert agent.act(agent.example) in (0, 1)


def test_the_cost_is_what_another_measurement_finds(exported: tuple[Path, dict[str, Any]]) -> None:
    """Returns are those of the agents in the episodes of `bitrl eval`, bytes those of the files' arrays."""
    folder, found = exported
    cost = found["bitdelta"]
    packed, learned = learned_of(folder / "bits"), learned_of(folder / "full")
    assert cost["bytes"] == sum(array.nbytes for array in packed.values())
    assert cost["adapter_bytes"] == sum(array.nbytes for array in learned.values()) > 25 * cost["bytes"]
    assert found["bytes"] == (folder / "bits").stat().st_size < (folder / "full").stat().st_size
    assert cost["mean_return_in_full"] == bitrl.evaluate(folder / "run", episodes=2)["mean_return"]
    assert cost["mean_return"] == pytest.approx(np.mean(returns_of(folder / "bits")))
    assert 0 < cost["feature_error"] < 1
    assert 0 <= cost["equal_actions"] <= 1
    assert MOST_TEXTS > 30, "all states of these episodes are measured on"


def returns_of(path: Path) -> list[float]:
    """Returns of an agent in the first two evaluation episodes, cut off after 30 steps."""
    import gymnasium

    from bitrl.core.runs.parts import EVALUATION, spawn_seeds

    agent, env, returns = bitrl.load_agent(path), gymnasium.make("CartPole-v1"), []
    for seed in spawn_seeds(0, EVALUATION, 2):
        observation, total, over, steps = env.reset(seed=seed)[0], 0.0, False, 0
        while not over and steps < 30:
            observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
            total, over, steps = total + float(reward), terminated or truncated, steps + 1
        returns.append(total)
    return returns


def test_adapters_of_another_beginning_are_refused(exported: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    file = agents.read(exported[0] / "bits")
    other = Checkpoint(file.arrays, {**file.meta, "bitdelta": "0" * 64})
    (tmp_path / "agent").write_bytes(checkpoints.as_bytes(other))
    with pytest.raises(UsageError, match="stored as changes of initial weights other than its backbone has here"):
        bitrl.load_agent(tmp_path / "agent")


def test_a_run_without_adapters_has_none_to_compress(tmp_path: Path) -> None:
    options = {"run.num_envs": 4, "run.eval_episodes": 0, "algo.rollout_steps": 32, "backbone.hidden": (8,)}
    bitrl.run(backbone="mlp", steps=32, out=tmp_path / "run", options=options)
    with pytest.raises(UsageError, match=r"has no adapters, which --bitdelta compresses: .* backbone\.lora_rank"):
        bitrl.export(tmp_path / "run", tmp_path / "agent", bitdelta=True)
    assert not (tmp_path / "agent").exists()
