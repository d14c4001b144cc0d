"""What the README promises is there: its figures are the measured ones, its commands exist, its Python runs."""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import gguf
import pytest
from click.testing import CliRunner

from bitrl.plugins.backbones.language_model import starter_path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.S | re.M)


def test_the_figures_are_those_of_the_results():
    spec = importlib.util.spec_from_file_location("figures", ROOT / "benchmarks" / "figures.py")
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    assert README.split(figures.START)[1].split(figures.END)[0] == figures.figures()
    page = (ROOT / "docs" / "starter.md").read_text(encoding="utf-8")
    assert page.split(figures.START)[1].split(figures.END)[0] == figures.starter_figures()


def test_every_result_says_what_made_it():
    results = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert results
    for path in results:
        record = json.loads(path.read_text(encoding="utf-8"))
        assert {"command", "commit", "versions", "processor", "results"} <= set(record), path.name
        assert not re.search(r"(^|[ \"'])/", record["command"]), f"{path.name} names an absolute path"


def test_the_sizes_of_the_starter_pair_are_those_of_its_files():
    ternary, twin = (starter_path(ternary=each) for each in (True, False))
    assert (
        f"({ternary.stat().st_size / 1e6:.0f} MB; its full-precision twin {twin.stat().st_size / 1e6:.0f} MB)" in README
    )
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(ternary).tensors}
    embeddings = tensors.pop("token_embd.weight")
    blocks = sum(int(tensor.n_bytes) for tensor in tensors.values())
    page = " ".join((ROOT / "docs" / "starter.md").read_text(encoding="utf-8").split())
    assert f"a vocabulary of {int(embeddings.shape[1]):,} tokens" in page
    assert f"{int(embeddings.n_bytes) / 1e6:.1f} MB of embeddings in float16" in page
    assert f"the ternary blocks ({blocks / 1e6:.1f} MB)" in page


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_every_link_leads_somewhere(target):
    assert target.startswith("http") or (ROOT / target).exists()


COMMANDS = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines() if "bitrl " in line]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("bitrl ")])
def test_every_command_parses(command):
    """Each command's options exist: with --help behind them, click checks the names before it prints the help."""
    from bitrl.cli import cli

    answer = CliRunner().invoke(cli, [*shlex.split(command)[1:], "--help"])
    assert answer.exit_code == 0, answer.output


def test_the_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [code] = blocks("python")
    names = {}
    quick = {"steps=20_000": "steps=2_048", "options={": 'options={"run.eval_episodes": 2, '}
    for slow, replaced in quick.items():
        code = code.replace(slow, replaced)
    exec(code, names)
    assert names["features"].shape == (1, 256)
    assert (names["summary"]["steps"], names["summary"]["eval"]["episodes"]) == (2048, 2)
    assert names["action"] in (0, 1)
