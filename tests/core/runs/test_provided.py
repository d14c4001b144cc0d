"""A run that goes on elsewhere or later: plugins that are missing or have changed, modules that it has imported."""

import importlib
import json
import sys
import tomllib

import gymnasium
import pytest
import tomli_w

import bitrl
from bitrl.core import events
from bitrl.core.registry import Entry, registry

OPTIONS = {"run.num_envs": 2, "run.eval_episodes": 1, "algo.rollout_steps": 16, "algo.epochs": 1}
MODULE = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

class Odd(CartPoleEnv):
    pass

gymnasium.register("Odd-v0", entry_point=Odd, max_episode_steps=20)
"""


@pytest.fixture(autouse=True)
def _registered_for_one_test_only():
    before = dict(gymnasium.registry)
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def warnings_of(run):
    heard = []
    bitrl.resume(run, (lambda event: heard.append(event.message) if isinstance(event, events.Warned) else None,))
    return heard


def unfinished(run):
    """The run as if it had been stopped before its evaluation."""
    (run / "summary.json").unlink()
    return run


def edit(run, change):
    data = tomllib.loads((run / "config.toml").read_text())
    change(data)
    (run / "config.toml").write_text(tomli_w.dumps(data))


@pytest.fixture
def of_a_plugin(tmp_path, monkeypatch):
    """A run whose backbone is of the package bitrl-odd; it is installed while in the registry's entries."""
    entries = registry().entries["backbone"]
    mlp = next(entry.record for entry in entries if entry.record.name == "mlp")
    record = bitrl.BackboneRecord(
        name="oddlp", summary="", target=mlp.target, options=mlp.options, accepts=("vector",), provides=("gradients",)
    )
    entry = Entry("bitrl-odd", record)
    monkeypatch.setitem(registry().entries, "backbone", [*entries, entry])
    bitrl.run(backbone="oddlp", steps=32, out=tmp_path / "run", options=OPTIONS)
    bitrl.export(tmp_path / "run", tmp_path / "agent")
    return unfinished(tmp_path / "run"), entries


def test_a_missing_plugin_is_named_with_its_package(of_a_plugin, monkeypatch, tmp_path):
    run, without = of_a_plugin
    edit(run, lambda data: data["provenance"]["versions"].update({"bitrl-odd": "1.2"}))
    assert bitrl.evaluate(run)["backbone"] == "oddlp"
    monkeypatch.setitem(registry().entries, "backbone", without)
    message = r'the run used backbone "oddlp" of package bitrl-odd 1.2, which is not installed: pip install bitrl-odd$'
    for use in (bitrl.resume, bitrl.evaluate, lambda run: bitrl.export(run, tmp_path / "other")):
        with pytest.raises(bitrl.UsageError, match=message):
            use(run)

    with pytest.raises(
        bitrl.UsageError, match=r"config.toml: the run used backbone \"oddlp\" of package bitrl-odd 1.2"
    ):
        bitrl.run(config=run / "config.toml", out=tmp_path / "new")

    edit(run, lambda data: data["provenance"]["plugins"].update(backbone={"package": "Bitrl_Odd"}))
    with pytest.raises(bitrl.UsageError, match=r"package Bitrl_Odd 1\.2, which is not installed"):
        bitrl.resume(run)

    edit(run, lambda data: data["provenance"]["plugins"]["backbone"].update(package="odd; rm"))  # a file of others
    with pytest.raises(bitrl.UsageError, match=r"which is not installed: pip install 'odd; rm'$"):
        bitrl.resume(run)

    def as_written_by_0_1(data):
        del data["provenance"]["plugins"]

    edit(run, as_written_by_0_1)
    with pytest.raises(bitrl.UsageError, match=r"which no installed plugin provides; .* not installed: bitrl-odd 1.2"):
        bitrl.resume(run)


@pytest.mark.parametrize("part", ["versions", "plugins", "features"])
def test_a_part_of_the_provenance_that_is_no_table_is_named(of_a_plugin, part):
    run, _ = of_a_plugin
    edit(run, lambda data: data["provenance"].update({part: "x"}))
    for use in (bitrl.resume, bitrl.evaluate):
        with pytest.raises(bitrl.UsageError, match=rf'config.toml: provenance.{part}: expected a table, got "x"'):
            use(run)


def test_changed_packages_are_told_with_both_versions(of_a_plugin):
    run, _ = of_a_plugin

    def older(data):
        data["provenance"]["versions"] |= {"numpy": "1.0", "machine": "pdp11"}
        data["provenance"]["plugins"]["backbone"] = {"package": "bitrl-earlier"}

    edit(run, older)
    [heard] = warnings_of(run)
    assert "changed since the run began: backbone is of bitrl-odd instead of bitrl-earlier, numpy 1.0 → " in heard
    assert "pdp11" not in heard


def test_changed_code_of_a_module_is_told_and_its_import_announced(tmp_path, monkeypatch, capsys):
    name = "odd_module_of_a_test"
    file = tmp_path / f"{name}.py"
    file.write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    run = tmp_path / "run"
    bitrl.run(f"{name}:Odd-v0", backbone="mlp", steps=32, out=run, options=OPTIONS)
    assert capsys.readouterr().err == ""  # it was asked for
    assert warnings_of(unfinished(run)) == []
    file.write_text(MODULE + "# another state of the same version")
    unfinished(run)
    assert [each.partition(": it goes on")[0] for each in warnings_of(run)] == [
        f"{run}: changed since the run began: the code of {name}"
    ]
    capsys.readouterr()
    monkeypatch.delitem(sys.modules, name)
    bitrl.export(run, tmp_path / "agent.safetensors")
    assert capsys.readouterr().err.count(f"the module {name} is imported for it, and its code runs") == 1


def test_a_module_is_announced_though_its_id_ends_like_a_built_in_name(tmp_path, monkeypatch, capsys):
    name = "odd_module_that_hides"
    (tmp_path / f"{name}.py").write_text(MODULE.replace("Odd-v0", "SmartHome-Light"))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    file = tmp_path / "run.toml"
    file.write_text(f'[run]\nenv = "{name}:SmartHome-Light"\nbackbone = "mlp"\nsteps = 32\n')
    bitrl.run(config=file, out=tmp_path / "run", options=OPTIONS)
    assert f"the module {name} is imported for it, and its code runs" in capsys.readouterr().err


def test_a_missing_plugin_whose_component_has_a_built_in_name_is_named(of_a_plugin):
    run, _ = of_a_plugin

    def of_another(data):
        data["run"]["backbone"] = "bitrl-gone:mlp"
        data["provenance"]["plugins"]["backbone"] = {"package": "bitrl-gone"}

    edit(run, of_another)
    with pytest.raises(bitrl.UsageError, match='"bitrl-gone:mlp" of package bitrl-gone, which is not installed: pip'):
        bitrl.resume(run)


def test_a_vector_without_its_texts_is_told(tmp_path, capsys):
    bitrl.run("SmartHome-Light", backbone="mlp", serializer="vector", steps=32, out=tmp_path / "run", options=OPTIONS)
    assert 'serializer vector leaves out the text "request" of SmartHome-Light' in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["serializer"] == "vector"
