"""Runs that teach a language model: resumed after a kill, exported, and what the exported file gives elsewhere."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from language_runs import KINDS, install, settings

import bitrl
from bitrl.core import events
from bitrl.core.acting.agents import load_agent
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.files.model_file import ModelFile

EXACT = [kind for kind in KINDS if "adapters" not in kind]


class Runs:
    """Runs by kind, each trained when it is first asked for, and exported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, kind: str) -> Path:
        run = self.folder / kind.replace(" ", "-") / "run"
        if not run.exists():
            bitrl.run(out=run, **settings(run.parent, kind))
        return run

    def base(self, kind: str) -> Path:
        return next(self(kind).parent.glob("*.gguf"))

    def exported(self, kind: str) -> Path:
        file = self(kind).parent / "exported" / "model.gguf"
        if not file.exists():
            file.parent.mkdir()
            bitrl.export(self(kind), file)
        return file


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patched:
        install(patched)
        yield Runs(tmp_path_factory.mktemp("language"))


def policy_of(kind: str, path: Path) -> Any:
    return bitrl.load_backbone(kind.split()[0], model=str(path), threads=1).language_policy()


def watched(run: Path) -> list[Any]:
    shown: list[Any] = []
    bitrl.evaluate(run, episodes=6, show=shown.append)
    return shown


def completed(policy: Any, samples: list[Any]) -> list[str]:
    found = policy.generate([each.prompt for each in samples], 6, temperature=0.0)
    return [each.text for each in found]


@pytest.mark.parametrize("kind", EXACT)
def test_an_exported_model_completes_what_the_evaluation_saw(runs: Runs, kind: str) -> None:
    samples = watched(runs(kind))
    wanted = [each.completion for each in samples]
    assert len({each.prompt for each in samples}) > 1
    assert completed(policy_of(kind, runs.exported(kind)), samples) == wanted
    assert completed(policy_of(kind, runs.base(kind)), samples) != wanted  # it has learned


@pytest.mark.parametrize("kind", EXACT)
def test_an_exported_model_has_the_learned_policy_to_the_bit(runs: Runs, kind: str) -> None:
    from bitrl.core.runs.export import teller, trained

    _, _, algorithm, _ = trained(runs(kind), teller(()))
    policy = algorithm.language_policy()
    policy.sync()
    prompts, tokens = ["Say 1:", "Say 22:"], [np.arange(5), np.arange(7)]
    other = policy_of(kind, runs.exported(kind))
    for one, two in zip(policy.logprobs(prompts, tokens), other.logprobs(prompts, tokens), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("kind", EXACT)
def test_an_exported_file_is_read_by_ggufs_own_reader(runs: Runs, kind: str) -> None:
    """Keys and tokenizer are those of the file that the run began with, the weights those of its checkpoint."""
    path = runs.exported(kind)
    before, after = ModelFile(runs.base(kind)).metadata(), gguf.GGUFReader(path)
    assert ModelFile(path).verify() == "sealed"
    for name in ("tokens", "merges", "pre", "model", "add_bos_token"):
        key = f"tokenizer.ggml.{name}"
        assert after.fields[key].contents() == before[key]
    checkpoint = max((runs(kind) / "checkpoints").iterdir())
    learned = bitrl.core.acting.checkpoints.read(checkpoint).arrays
    tensors = {tensor.name: tensor for tensor in after.tensors}
    ternary = kind == "bitnet"
    assert tensors["blk.0.attn_v.weight"].tensor_type.name == ("TQ2_0" if ternary else "F32")
    for name in ("token_embd", "output_norm", "blk.0.attn_v", "blk.0.ffn_down"):
        tensor, wanted = tensors[f"{name}.weight"], learned[f"algorithm.{name}"]
        found = gguf.dequantize(tensor.data, tensor.tensor_type)
        if ternary and found.ndim == 2 and name.startswith("blk."):
            mean = np.abs(wanted.astype(np.float64)).mean()
            wanted = (np.clip(np.rint(wanted / mean), -1, 1) * mean).astype(np.float32)
            found = found * tensors[f"{name}.scale"].data
        np.testing.assert_array_equal(found.reshape(wanted.shape), wanted)


def test_transformers_computes_the_same_of_an_exported_file(runs: Runs) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    path = runs.exported("fp32")
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert (set(missing) - {"lm_head.weight"}, unexpected) == (set(), [])
    model.tie_weights()
    ids = [5, 99, 3, 250, 17, 42]
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    policy = policy_of("fp32", path)
    policy.model.prompt_ids = lambda prompts: [ids[:2]]
    [found] = policy.logprobs(["two tokens"], [np.array(ids[2:])])
    np.testing.assert_allclose(found, wanted[[1, 2, 3, 4], ids[2:]].numpy(), rtol=0, atol=2e-5)


def test_adapters_are_merged_into_floats_and_refused_beside_ternary_weights(runs: Runs, tmp_path: Path) -> None:
    from bitrl.core.runs.export import teller, trained

    kind = "fp32 with adapters"
    _, _, algorithm, _ = trained(runs(kind), teller(()))
    policy = algorithm.language_policy()
    policy.sync()
    prompts, tokens = ["Say 1:", "Say 22:"], [np.arange(5), np.arange(7)]
    other, base = (policy_of(kind, path).logprobs(prompts, tokens) for path in (runs.exported(kind), runs.base(kind)))
    for one, two, three in zip(policy.logprobs(prompts, tokens), other, base, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)
        assert np.abs(one - three).max() > 1e-3
    with pytest.raises(bitrl.UsageError, match=r"adapters .* of a model in ternary cannot be merged"):
        bitrl.export(runs("bitnet with adapters"), tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_with_an_exported_model(runs: Runs, tmp_path: Path) -> None:
    last = [json.loads(row) for row in (runs("fp32") / "metrics.jsonl").read_text().splitlines()][-1]
    again = settings(tmp_path, "fp32", steps=8)
    again["options"] |= {"backbone.model": str(runs.exported("fp32")), "run.seed": 7}
    bitrl.run(out=tmp_path / "again", **again)
    first = json.loads((tmp_path / "again" / "metrics.jsonl").read_text().splitlines()[0])
    untaught = json.loads((runs("fp32") / "metrics.jsonl").read_text().splitlines()[0])
    assert first["episode_return"] > (untaught["episode_return"] + last["episode_return"]) / 2


def test_only_the_blocks_that_were_run_are_exported(runs: Runs, tmp_path: Path) -> None:
    given = settings(tmp_path, "fp32", steps=8)
    given["options"]["backbone.layers"] = 1
    bitrl.run(out=tmp_path / "run", **given)
    bitrl.export(tmp_path / "run", tmp_path / "m.gguf")
    assert Engine(tmp_path / "m.gguf", "fp32").blocks == 1
    samples = watched(tmp_path / "run")
    found = completed(policy_of("fp32", tmp_path / "m.gguf"), samples)
    assert found == [each.completion for each in samples]


def test_what_cannot_be_exported_so_is_said_in_a_line(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(bitrl.UsageError, match=r"taught a language model.*choose a name that ends in \.gguf"):
        bitrl.export(runs("fp32"), tmp_path / "agent.safetensors")
    with pytest.raises(bitrl.UsageError, match=r"language model, which is exported whole: leave out .*bitdelta"):
        bitrl.export(runs("fp32"), tmp_path / "m.gguf", bitdelta=True)
    with pytest.raises(bitrl.UsageError, match=r"a language model \(GGUF\), not an agent.*language_policy"):
        load_agent(runs.exported("fp32"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["int8", "bitnet", "fp32 with adapters"])
def test_a_killed_run_ends_with_the_same_bytes(runs: Runs, kind: str, tmp_path: Path) -> None:
    whole, killed = runs(kind), tmp_path / "killed"
    given = settings(tmp_path, kind)
    given["options"]["backbone.model"] = str(runs.base(kind))

    def kill(event: events.Event) -> None:
        if isinstance(event, events.Sampled) and event.step == 24:  # after its rows, before its checkpoint
            os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if not pid:
        try:
            bitrl.run(out=killed, listeners=(kill,), **given)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    rows = (killed / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [8, 16, 24]
    bitrl.resume(killed)
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert [json.loads(row)["step"] for row in (killed / "samples.jsonl").read_text().splitlines()] == [8, 16, 24, 32]
    newest = [max((run / "checkpoints").iterdir()).read_bytes() for run in (killed, whole)]
    assert newest[0] == newest[1]
