"""What commands print of runs that teach a language model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from language_runs import install, settings

from bitrl.core.sampled_completions import LONGEST, SampledCompletion


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The directories of two runs, of two seeds."""
    from bitrl.core.runs.train import run

    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patched:
        install(patched)
        for seed in (0, 1):
            run(out=folder / f"seed{seed}", seed=seed, **settings(folder, "fp32", steps=16))
        yield [folder / "seed0", folder / "seed1"]


def test_eval_shows_prompts_completions_and_rewards(bitrl: Any, trained: list[Path]) -> None:
    shown = bitrl("eval", trained[0], "--show", "--quiet", "--episodes", "10").out.splitlines()
    found = json.loads(bitrl("eval", trained[0], "--show", "--json", "--episodes", "10").out)
    assert "first_episode" not in found
    assert [each["reward"] for each in found["samples"]] == found["returns"][:8]
    for number, sample in enumerate(found["samples"]):
        prompt, completion, reward = shown[3 * number : 3 * number + 3]
        assert prompt == f"{number + 1}  prompt      {sample['prompt']}"
        assert completion.startswith("   completion  ")
        assert reward == f"   reward      {sample['reward']:.4g}"
    assert shown[24].startswith("even-signs: ")
    assert len({each["prompt"] for each in found["samples"]}) > 1


def test_a_sample_is_a_line_whatever_it_says() -> None:
    sample = SampledCompletion("Say:\n" + "x" * 200, "[red]\x1b[2J" + "y" * 200, 1 / 3)
    line = sample.line()
    assert line.startswith(f"reward 0.333: …{'x' * LONGEST} → [red]\\x1b[2Jy")
    assert line.endswith("y…")
    assert line.isprintable()


def test_watch_shows_tokens_and_the_last_sample(bitrl: Any, trained: list[Path], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    shown = bitrl("watch", "--once", *trained).out
    row = json.loads((trained[0] / "samples.jsonl").read_text().splitlines()[-1])
    assert re.search(r"tokens/s +[\d,]+ +[\d,]+", shown)
    assert re.search(r"completion length +6 +6", shown)
    assert f"reward {row['reward']:.3g}: {row['prompt']} →" in shown


def test_runs_are_compared_reported_and_plotted(bitrl: Any, trained: list[Path], tmp_path: Path) -> None:
    returns = [json.loads((run / "summary.json").read_text())["eval"]["mean_return"] for run in trained]
    [row] = json.loads(bitrl("compare", *trained, "--json").out)["rows"]
    assert row["mean"] == pytest.approx(sum(returns) / 2)
    assert bitrl("compare", *trained, "--metric", "correct").code == 0
    assert (
        "its evaluation has no wrong; it has correct, failed_rewards"
        in bitrl("compare", *trained, "--metric", "wrong").err
    )
    assert bitrl("report", *trained, "--out", tmp_path / "report.html").code == 0
    assert "even-signs" in (tmp_path / "report.html").read_text()
    assert "1 curves of 2 runs" in bitrl("plot", *trained, "-o", tmp_path / "curves.svg").out


def test_export_says_what_to_do_with_the_model(bitrl: Any, trained: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    done = bitrl("export", trained[0], "--out", file)
    assert done.code == 0
    assert f"{file}: {file.stat().st_size:,} bytes, the language model after 16 completions of even-signs" in done.out
    assert f"run --algo grpo --env even-signs --backbone fp32 -o backbone.model={file}" in done.out
    assert bitrl("model", "inspect", file).code == 0
    again = bitrl("export", trained[0], "--out", file, "--force", "--json")
    assert json.loads(again.out)["unsupported"] == []
    wrong = bitrl("export", trained[0], "--out", tmp_path / "agent.safetensors")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    acted = bitrl("act", file)
    assert (acted.code, acted.err.count("\n")) == (2, 1)
    assert "a language model (GGUF), not an agent" in acted.err
