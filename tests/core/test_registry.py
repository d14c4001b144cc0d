"""Plugins are found, and one that is broken breaks nothing but itself."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bitrl
from bitrl.core import registry as registry_module
from bitrl.core.errors import UsageError
from bitrl.core.events import Event, RolloutStepped, RunFinished, every_step
from bitrl.core.registry import Registry


def plugin(name: str = "plugin", **hooks: Callable[..., Any]) -> types.ModuleType:
    module = types.ModuleType(name)
    for hook, function in hooks.items():
        setattr(module, hook, bitrl.hookimpl(function))
    return module


def serializer(name: str) -> bitrl.SerializerRecord:
    return bitrl.SerializerRecord(name=name, summary="a test", target="nowhere:Nothing")


def registry_of(*plugins: tuple[types.ModuleType, str]) -> Registry:
    registry = Registry()
    for module, package in plugins:
        registry.add(module, package)
    return registry


def names(registry: Registry, kind: str = "serializer") -> list[str]:
    return [entry.record.name for entry in registry.entries[kind]]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Registry]:
    """The registry of this installation and of modules installed for the test alone."""

    def install(**modules: str) -> Registry:
        for name, source in modules.items():
            info = tmp_path / f"{name}-1.0.dist-info"
            info.mkdir()
            (tmp_path / f"{name}.py").write_text(source)
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            (info / "entry_points.txt").write_text(f"[bitrl]\n{name} = {name}\n")
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        registry = Registry()
        registry.add_installed()
        return registry

    return install


def renamed(name: str, alias: str) -> bitrl.SerializerRecord:
    return bitrl.SerializerRecord(name=name, summary="a test", target="a:B", aliases={alias: "was too short"})


def test_an_alias_finds_the_component_and_says_once_what_it_is_called_now(capsys: pytest.CaptureFixture[str]):
    registry = registry_of((plugin(bitrl_serializers=lambda: [renamed("new", "old"), serializer("other")]), "pack"))
    for name in ("old", "old", "pack:old"):
        assert registry.find("serializer", name).name == "new"
    assert capsys.readouterr().err == "serializer old was too short and is now called new\n"
    assert registry.find("serializer", "new").name == "new"
    assert [registry.current_name("serializer", name) for name in ("old", "pack:old", "new", "pack:new", "other")] == [
        "new", "pack:new", "new", "pack:new", "other",
    ]  # fmt: skip
    assert capsys.readouterr().err == ""


def test_a_name_wins_over_another_components_alias(capsys: pytest.CaptureFixture[str]):
    old = plugin("one", bitrl_serializers=lambda: [renamed("new", "old")])
    registry = registry_of((old, "one"), (plugin("two", bitrl_serializers=lambda: [serializer("old")]), "two"))
    assert registry.find("serializer", "old").name == registry.current_name("serializer", "old") == "old"
    assert registry.find("serializer", "one:old").name == "new"
    assert capsys.readouterr().err == "serializer old was too short and is now called new\n"


def test_an_alias_of_two_components_is_refused():
    records = (("a", renamed("first", "old")), ("b", renamed("second", "old")))
    registry = registry_of(*((plugin(n, bitrl_serializers=lambda r=r: [r]), n) for n, r in records))
    with pytest.raises(UsageError) as caught:
        registry.find("serializer", "old")
    assert str(caught.value) == 'serializer "old" is provided by a and b: choose "a:first" or "b:second"'


GOOD = """
import bitrl

@bitrl.hookimpl
def bitrl_serializers():
    yield bitrl.SerializerRecord(name="good", summary="a test", target="nowhere:Nothing")
"""


def test_the_built_in_components_come_by_entry_points_without_problems(installed: Callable[..., Registry]):
    registry = installed()
    assert {"json", "natural", "compact", "vector"} <= set(names(registry))
    assert {entry.package for entry in registry.entries["algorithm"]} == {"bitrl"}
    assert registry.problems == [] == registry.conflicts()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("class Panic(BaseException): pass\nraise Panic('oh')", "Panic: oh"),
        ("this is no Python", "SyntaxError"),
    ],
)
def test_a_plugin_that_fails_on_import_is_reported_and_the_others_work(
    installed: Callable[..., Registry], source: str, message: str
):
    registry = installed(a_broken_plugin=source, good_plugin=GOOD)
    assert {"json", "good"} <= set(names(registry))
    (problem,) = registry.problems
    assert problem.package == "a_broken_plugin"
    assert problem.message.startswith("entry point a_broken_plugin = a_broken_plugin failed: ")
    assert message in problem.message
    assert "\n" not in problem.message


def test_ctrl_c_during_an_import_is_not_swallowed(installed: Callable[..., Registry]):
    with pytest.raises(KeyboardInterrupt):
        installed(interrupted_plugin="raise KeyboardInterrupt")


def test_only_one_distribution_can_be_read(installed: Callable[..., Registry]):
    installed(good_plugin=GOOD)
    registry = Registry()
    registry.add_installed("good_plugin")
    assert names(registry) == ["good"]
    assert names(registry, "backbone") == []


def test_a_plugin_that_never_returns_is_named(
    installed: Callable[..., Registry], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    told = threading.Event()

    def tell(line: str) -> None:
        print(line, file=sys.stderr)
        told.set()

    monkeypatch.setattr(registry_module, "STUCK_SECONDS", 0.01)
    monkeypatch.setattr(registry_module, "tell", tell)
    monkeypatch.setattr(bitrl, "test_wait", told.wait, raising=False)
    endless = GOOD.replace("    yield", "    while not bitrl.test_wait(): pass\n    yield")  # until it is named
    assert {"json", "good"} <= set(names(installed(stuck_plugin=endless)))
    [line] = [line for line in capsys.readouterr().err.splitlines() if "stuck_plugin" in line]
    assert line.startswith(
        "plugin stuck_plugin: its bitrl_serializers has not returned for 0 s: if it never does, stop"
    )
    assert "pip uninstall stuck_plugin" in line
    told.clear()
    monkeypatch.delitem(sys.modules, "good_plugin", raising=False)
    installed(good_plugin="import bitrl\nbitrl.test_wait()\n" + GOOD)
    assert "plugin good_plugin: its entry point good_plugin = good_plugin has not" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{"wrapper": True}, {"hookwrapper": True}])
def test_a_hook_that_wraps_others_is_told_to_be_none(options: dict[str, bool]):
    def bitrl_serializers():  # one that yields nothing would be passed over
        return
        yield

    module = types.ModuleType("plugin")
    module.bitrl_serializers = bitrl.hookimpl(**options)(bitrl_serializers)
    registry = registry_of((module, "pack"))
    assert [each.message for each in registry.problems] == [
        "bitrl_serializers is not called: it wraps other plugins' hooks, which bitrl calls one by one: mark it with "
        "@bitrl.hookimpl alone"
    ]


@pytest.mark.filterwarnings("error")  # of a coroutine that nobody awaits
def test_an_async_hook_of_records_is_told_to_be_a_plain_one():
    async def bitrl_serializers():
        return []

    registry = registry_of((plugin(bitrl_serializers=bitrl_serializers), "pack"))
    assert [each.message for each in registry.problems] == [
        "bitrl_serializers is not called: it is async: write a plain function"
    ]


def test_two_entry_points_for_one_module_are_reported_once():
    module = plugin(bitrl_serializers=lambda: [serializer("one")])
    registry = registry_of((module, "twice"), (module, "twice"))
    assert names(registry) == ["one"]
    (problem,) = registry.problems
    assert problem.message == "two entry points name the same plugin, plugin: remove one"


def test_a_misspelt_hook_is_reported_with_the_right_one():
    registry = registry_of((plugin(bitrl_serialisers=lambda: []), "british"))
    (problem,) = registry.problems
    assert (problem.package, problem.message) == (
        "british",
        "unknown hook bitrl_serialisers: did you mean bitrl_serializers?",
    )


def test_an_unmarked_hook_is_reported():
    module = types.ModuleType("plugin")
    module.bitrl_backbones = lambda: []  # type: ignore[attr-defined]
    (problem,) = registry_of((module, "forgetful")).problems
    assert problem.message == "bitrl_backbones is not marked with @bitrl.hookimpl, so it is not called"


def test_a_hook_that_asks_for_arguments_it_does_not_get_is_reported_and_its_plugins_other_hooks_work():
    heard: list[object] = []

    def bitrl_event(event: object) -> None:
        heard.append(event)

    def bitrl_serializers(colour: str) -> list[object]:
        return []

    registry = registry_of((plugin(bitrl_event=bitrl_event, bitrl_serializers=bitrl_serializers), "greedy"))
    (problem,) = registry.problems
    assert (problem.package, problem.message) == (
        "greedy",
        "bitrl_serializers(colour) is not called: bitrl passes no arguments: write def bitrl_serializers()",
    )
    assert registry.send(Event(Path())) == []
    assert heard == [Event(Path())]


@pytest.mark.parametrize(
    ("yielded", "expected"),
    [
        ("json", "expected SerializerRecord records, got 'json'"),
        (
            bitrl.AlgorithmRecord(name="ppo", summary="", target="a:b"),
            "expected SerializerRecord records, got AlgorithmRecord",
        ),
    ],
)
def test_a_hook_that_yields_something_else_is_reported_and_what_it_yielded_before_is_kept(
    yielded: object, expected: str
):
    registry = registry_of((plugin(bitrl_serializers=lambda: iter([serializer("first"), yielded])), "odd"))
    assert names(registry) == ["first"]
    (problem,) = registry.problems
    assert problem.message.startswith("bitrl_serializers failed: TypeError: ")
    assert expected in problem.message


class Panic(BaseException):
    """As pyo3 raises where Rust code panics: no Exception."""


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), Panic("no")])
def test_a_hook_that_fails_leaves_the_other_hooks_of_its_plugin(error: BaseException):
    def failing() -> list[object]:
        raise error

    backbone = bitrl.BackboneRecord(name="fine", summary="", target="a:b")
    registry = registry_of((plugin(bitrl_serializers=failing, bitrl_backbones=lambda: [backbone]), "half"))
    assert names(registry, "backbone") == ["fine"]
    assert [problem.package for problem in registry.problems] == ["half"]


def test_a_hook_may_have_nothing_to_yield():
    registry = registry_of((plugin(bitrl_serializers=lambda: None), "empty"))
    assert registry.problems == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": "no_colon"}, 'target: expected "module:attribute", got "no_colon"'),
        ({"options": dict}, "options: expected a class decorated with @bitrl.options"),
        ({"name": ""}, "name"),
        ({"emits": "sound"}, 'ValueError: emits: expected "text" or "vector", got \'sound\''),
        ({"learns": "yes"}, "ValueError: learns: expected True or False, got 'yes'"),
        ({"target": None}, 'target: expected "module:attribute", got "None"'),
    ],
)
def test_a_record_that_makes_no_sense_is_a_problem_of_its_plugin(fields: dict[str, Any], message: str):
    def bitrl_serializers() -> Any:
        yield bitrl.SerializerRecord(**{"name": "x", "summary": "", "target": "a:b", **fields})

    (problem,) = registry_of((plugin(bitrl_serializers=bitrl_serializers), "odd")).problems
    assert message in problem.message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"accepts": "text"}, "accepts: expected a tuple such as (\"text\",), got 'text'"),
        ({"accepts": ("sound",)}, 'accepts: expected "text" or "vector", got \'sound\''),
        ({"accepts": ()}, 'accepts: expected a tuple such as ("text",), got ()'),
        ({"provides": "gradients"}, "provides: expected a tuple such as (\"gradients\",), got 'gradients'"),
    ],
)
def test_a_record_with_a_bad_form_is_told_in_words_and_loses_its_hook_alone(fields: dict[str, Any], message: str):
    def bitrl_backbones() -> Any:
        yield bitrl.BackboneRecord(**{"name": "x", "summary": "", "target": "a:b", **fields})

    module = plugin(bitrl_backbones=bitrl_backbones, bitrl_serializers=lambda: [serializer("fine")])
    registry = registry_of((module, "odd"))
    assert [problem.message for problem in registry.problems] == [f"bitrl_backbones failed: ValueError: {message}"]
    assert names(registry) == ["fine"]


def test_a_list_of_forms_is_as_good_as_a_tuple():
    record = bitrl.BackboneRecord(name="x", summary="", target="a:b", accepts=["text", "vector"])  # type: ignore[arg-type]
    assert record.accepts == ("text", "vector")


def test_an_event_hook_with_an_argument_too_many_is_told_in_words():
    def bitrl_event(event: Event, run: object) -> None: ...

    (problem,) = registry_of((plugin(bitrl_event=bitrl_event), "greedy")).problems
    assert problem.message == "bitrl_event(run) is not called: bitrl passes only event: write def bitrl_event(event)"


def test_an_event_hook_that_only_makes_a_generator_or_a_coroutine_is_told():
    def bitrl_event(event: Event) -> Iterator[int]:
        yield 1

    (problem,) = registry_of((plugin(bitrl_event=bitrl_event), "lazy")).problems
    assert problem.message.startswith("bitrl_event is a generator or async, so nothing in it runs")

    async def waits(event: Event) -> None: ...

    (problem,) = registry_of((plugin(bitrl_event=waits), "lazy")).problems
    assert problem.message.startswith("bitrl_event is a generator or async, so nothing in it runs")


@pytest.mark.parametrize(
    "source",
    [
        "import sys; sys.stdout.reconfigure(encoding='utf-8'); print('good morning')",
        "import sys; sys.stdout.buffer.write(b'good morning')",
        "import sys; print('good morning'); sys.stdout.close()",
        "import io, sys; sys.stdout = io.TextIOWrapper(sys.stdout.detach()); print('good morning', flush=True)",
    ],
)
def test_what_a_plugin_does_to_stdout_when_it_is_read_stops_nothing(
    installed: Callable[..., Registry], source: str, capfd: pytest.CaptureFixture[str]
):
    registry = installed(loud_plugin=f"{source}\n{GOOD}")
    assert "good" in names(registry)
    assert [each.message.partition(" whenever")[0] for each in registry.costs] == ["prints 'good morning'"]
    print("still there")
    captured = capfd.readouterr()
    assert (captured.out, captured.err.strip()) == ("still there\n", "good morning")


def test_reading_a_plugin_must_not_import_heavy_modules_or_print(
    installed: Callable[..., Registry],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    for name in ("jax", "pandas"):
        (tmp_path / f"{name}.py").write_text("")
        monkeypatch.delitem(sys.modules, name, raising=False)
    loud = "import os\nprint('good\\nmorning')\nos.system('echo from a shell')\n"
    registry = installed(heavy_plugin=f"import jax, pandas\n{GOOD}", loud_plugin=f"{loud}{GOOD}", light_plugin="")
    for name in ("jax", "pandas"):
        del sys.modules[name]
    heavy, printing = registry.costs
    assert heavy.package == "heavy_plugin"
    assert heavy.message.startswith("imports jax, pandas whenever it is listed (0.")
    assert (printing.package, printing.message.partition(" whenever")[0]) == ("loud_plugin", "prints 'good morning'")
    assert registry.problems == []
    captured = capfd.readouterr()
    assert captured.out == ""
    assert sorted(captured.err.splitlines()) == ["from a shell", "good", "morning"]


def shared() -> Registry:
    return registry_of(
        (plugin("one", bitrl_serializers=lambda: [serializer("same"), serializer("only")]), "pack-one"),
        (plugin("two", bitrl_serializers=lambda: [serializer("same")]), "pack-two"),
    )


def test_a_name_that_two_packages_have_is_refused_and_both_are_named():
    registry = shared()
    with pytest.raises(UsageError) as caught:
        registry.find("serializer", "same")
    assert str(caught.value) == (
        'serializer "same" is provided by pack-one and pack-two: choose "pack-one:same" or "pack-two:same"'
    )
    (conflict,) = registry.conflicts()
    assert (conflict.package, conflict.message) == ("pack-two", 'serializer "same" is also provided by pack-one')


def test_package_and_name_pick_one_of_two():
    registry = shared()
    assert registry.find("serializer", "pack-two:same") is registry.entries["serializer"][2].record
    assert registry.find("serializer", "pack-one:same") is registry.entries["serializer"][0].record
    assert registry.find("serializer", "only").name == "only"


def test_a_plugin_that_takes_a_built_in_name_is_refused_where_it_is_chosen_and_no_default():
    registry = registry_of(
        (plugin("own", bitrl_serializers=lambda: [serializer("json")]), "bitrl"),
        (plugin("two", bitrl_serializers=lambda: [serializer("json"), serializer("rare")]), "a-pack"),
        (plugin("three", bitrl_serializers=lambda: [serializer("rare")]), "other"),
    )
    own, packs, _, _ = (entry.record for entry in registry.entries["serializer"])
    with pytest.raises(
        UsageError, match='"json" is provided by bitrl and a-pack: choose "bitrl:json" or "a-pack:json"'
    ):
        registry.find("serializer", "json")
    assert registry.find("serializer", "json", built_in_first=True) is registry.find("serializer", "bitrl:json") is own
    assert registry.find("serializer", "a-pack:json", built_in_first=True) is packs
    assert [(conflict.package, conflict.message) for conflict in registry.conflicts()] == [
        ("a-pack", 'serializer "json" is also provided by bitrl'),
        ("other", 'serializer "rare" is also provided by a-pack'),
    ]
    with pytest.raises(UsageError, match='"rare" is provided by a-pack and other: choose'):
        registry.find("serializer", "rare", built_in_first=True)


def test_a_name_that_one_package_has_twice_cannot_be_picked():
    twice = plugin(bitrl_serializers=lambda: [serializer("same"), serializer("same")])
    with pytest.raises(UsageError, match='"same" is registered twice by pack: rename one of the two'):
        registry_of((twice, "pack")).find("serializer", "same")
    (problem,) = registry_of((twice, "pack")).conflicts()
    assert problem.message == 'serializer "same" is registered twice: rename one of the two'


def test_of_several_packages_the_one_that_has_a_name_twice_is_to_rename_it():
    one = plugin("one", bitrl_serializers=lambda: [serializer("same")])
    twice = plugin("two", bitrl_serializers=lambda: [serializer("same"), serializer("same")])
    with pytest.raises(UsageError, match='"same" is registered twice by pack: rename one of the two'):
        registry_of((one, "innocent"), (twice, "pack")).find("serializer", "same")


def test_an_unknown_name_gets_the_nearest_one():
    registry = Registry()
    registry.add_installed("bitrl")
    with pytest.raises(UsageError) as caught:
        registry.find("serializer", "jsno")
    assert str(caught.value) == 'unknown serializer "jsno": did you mean "json"?'


def test_an_unknown_name_also_names_the_plugins_with_problems_since_one_may_have_had_it():
    registry = shared()
    registry.add(plugin("three", bitrl_serialisers=lambda: []), "pack-three")
    with pytest.raises(UsageError) as caught:
        registry.find("serializer", "quite different")
    assert str(caught.value) == (
        'unknown serializer "quite different": known: only, same (plugins with problems: pack-three; see bitrl doctor)'
    )


@pytest.mark.parametrize("error", [SystemExit("stop everything"), Panic("stop everything")])
def test_a_listener_that_fails_is_reported_and_the_others_hear_the_event(error: BaseException):
    heard: list[Event] = []

    def listens(event: Event) -> None:
        heard.append(event)

    def fails(event: Event) -> None:
        raise error

    registry = registry_of(
        (plugin("one", bitrl_event=fails), "pack-one"),
        (plugin("two", bitrl_event=listens), "pack-two"),
        (plugin("three", bitrl_event=lambda: heard.append(Event(Path("three")))), "pack-three"),
    )
    event = Event(Path("run"))
    (problem,) = registry.send(event)
    assert problem.package == "pack-one"
    assert problem.message == f"bitrl_event failed on Event: {type(error).__name__}: stop everything"
    assert sorted(map(str, heard)) == sorted(map(str, [event, Event(Path("three"))]))


def test_a_listener_is_given_a_copy_and_single_steps_only_if_it_asks_for_them():
    heard: list[str] = []

    def spoils(event: Event) -> None:
        heard.append(f"spoils {type(event).__name__}")
        if isinstance(event, RunFinished):
            event.summary["eval"]["mean_return"] = 500.0  # type: ignore[index]

    @every_step
    def asks(event: Event) -> None:
        heard.append(f"asks {type(event).__name__}")
        if isinstance(event, RunFinished):
            assert event.summary["eval"] == {"mean_return": 9.5}

    registry = registry_of((plugin("one", bitrl_event=asks), "a"), (plugin("two", bitrl_event=spoils), "b"))
    summary = {"eval": {"mean_return": 9.5}}
    assert registry.send(RolloutStepped(Path(), 4)) == registry.send(RunFinished(Path(), summary)) == []
    assert sorted(heard) == ["asks RolloutStepped", "asks RunFinished", "spoils RunFinished"]
    assert summary == {"eval": {"mean_return": 9.5}}


def test_loading_a_component_whose_code_is_missing_names_it_and_the_cause():
    with pytest.raises(UsageError) as caught:
        serializer("lost").load()
    assert str(caught.value) == (
        "\"lost\" could not be loaded from nowhere:Nothing: ModuleNotFoundError: No module named 'nowhere'"
    )


def test_a_hook_that_yields_records_for_ever_is_an_error_of_its_plugin_alone() -> None:
    def endless() -> Iterator[bitrl.SerializerRecord]:
        while True:
            yield serializer("again")

    registry = registry_of(
        (plugin("endless", bitrl_serializers=endless), "endless-package"),
        (plugin("good", bitrl_serializers=lambda: [serializer("good")]), "good-package"),
    )
    [problem] = registry.problems
    assert problem.package == "endless-package"
    assert "more than 10,000 records" in problem.message
    assert names(registry) == ["good"]
