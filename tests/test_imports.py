"""What may be imported where, as the folders say it; and that a name means one thing.

Rules are read from the sources: an import inside a function counts as one at the top, one for type checkers does not.
"""

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from import_graph import classes, first_circle, import_graph, imports, modules

ROOT = Path(__file__).parent.parent
MODULES = modules(ROOT)

CORE = ("bitrl.core", "bitrl.core.acting", "bitrl.core.environments", "bitrl.core.runs", "bitrl.core.studies")
SERVING = ("bitrl.core", "bitrl.core.acting", "bitrl.core.serving")
MAY_IMPORT = {
    "bitrl.core": CORE[:1],
    "bitrl.core.acting": CORE[:2],
    "bitrl.core.environments": CORE[:3],
    "bitrl.core.runs": CORE[:4],
    "bitrl.core.serving": SERVING,
    "bitrl.core.studies": CORE,
    "bitrl": CORE,
    "bitrl.__main__": ("bitrl.cli",),
    "bitrl.learning": (*CORE, "bitrl", "bitrl.plugins"),
    "bitrl.testing": (*CORE, "bitrl", "bitrl.testing", "bitrl.plugins"),
    "bitrl.plugins": (*CORE, "bitrl", "bitrl.plugins", "bitrl._engine", "bitrl._limits"),
    "bitrl.cli": (*CORE, "bitrl.core.serving", "bitrl", "bitrl.testing", "bitrl.plugins", "bitrl.cli"),
}
"""Layer → the layers that its modules may import."""

OTHERS = {
    "bitrl": set(),
    "bitrl.__main__": set(),
    "bitrl.core": {"attrs", "pluggy"},
    "bitrl.core.acting": {"attrs", "numpy", "safetensors", "tokenizers"},
    "bitrl.core.environments": {"attrs", "gymnasium", "numpy", "safetensors", "tokenizers"},
    "bitrl.core.runs": {"attrs", "av", "gymnasium", "numpy", "pygame", "rich", "safetensors", "tokenizers", "tomli_w"},
    "bitrl.core.serving": {"attrs", "httptools", "numpy", "starlette", "uvicorn"},
    "bitrl.core.studies": {"arch", "attrs", "numpy", "ray", "scipy", "tomli_w"},
}
"""Layer → the packages of others that its modules may import. Plugins, commands and the conformance kit import whatever
they need."""

EXCEPTIONS = {
    # Which ids Gymnasium knows is asked where an environment's name is looked up that no plugin has registered.
    ("bitrl.core.config", "gymnasium"),
}
"""(module, package) that its layer may not import, but it does, inside a function."""

ONE_NAME_FOR_SEVERAL_MODULES = {
    "loading": "builds components by name: in acting those that read texts, in environments those that need Gymnasium",
    "files": "core's is the module that writes files, the backbones' the package of file formats",
    "train": "the loop of a run, of a pre-training and of a distillation",
    "export": "writes what a run, a pre-training or a distillation has trained",
    "command": "`bitrl model train` and `bitrl model distill`: the two trainings have the same steps",
    "card": "of the models that the two trainings make",
    "measure": "of the models that the two trainings make",
}
"""Names of modules in core and plugins that mean the same kind of thing in several packages, and which."""

ONE_NAME_FOR_SEVERAL_CLASSES: dict[str, str] = {}
"""The same for classes, of all modules."""


@cache
def graph() -> dict[str, set[str]]:
    """Module → all that it imports. Not made before a test asks: it takes two seconds."""
    return import_graph(MODULES)


def layer(name: str) -> str:
    """The layer of a module of bitrl: the longest of their names that it begins with."""
    layers = [each for each in (*MAY_IMPORT, "bitrl._engine", "bitrl._limits") if f"{name}.".startswith(f"{each}.")]
    return max(layers, key=len)


def edges() -> Iterator[tuple[str, str]]:
    """Every import as (importer, imported)."""
    return ((name, other) for name in sorted(graph()) for other in sorted(graph()[name]))


def ours(name: str) -> bool:
    return name.partition(".")[0] == "bitrl"


def test_every_module_is_found():
    assert {"bitrl", "bitrl.cli.run", "bitrl.core.config", "bitrl.plugins.algos.ppo", "bitrl.testing"} <= graph().keys()
    assert len(graph()) == len(set(MODULES.values())) > 150
    assert "bitrl.core.runs.train" in graph()["bitrl.cli.run"]
    unknown = {other for _, other in edges() if ours(other)} - graph().keys()
    assert unknown == {"bitrl._engine", "bitrl._limits"}, "modules are imported that are not there"


def test_no_modules_import_each_other_in_a_circle():
    assert " → ".join(first_circle(graph())) == ""


def test_imports_go_down_the_layers():
    upward = [
        f"{name} imports {other}"
        for name, other in edges()
        if ours(other) and layer(other) not in MAY_IMPORT[layer(name)]
    ]
    assert upward == []


def test_the_layers_import_no_package_beyond_theirs():
    def packages() -> Iterator[tuple[str, str]]:
        for name, other in edges():
            package = other.partition(".")[0]
            if package not in sys.stdlib_module_names and not ours(package) and layer(name) in OTHERS:
                yield name, package

    beyond = {(name, package) for name, package in packages() if package not in OTHERS[layer(name)]}
    assert beyond - EXCEPTIONS == set()
    assert EXCEPTIONS - beyond == set(), "no longer needed: remove them from the list"
    for name, package in EXCEPTIONS:
        at_the_top = imports(name, MODULES[name], inside_functions=False)
        assert package not in {other.partition(".")[0] for other in at_the_top}


def test_the_public_face_names_what_is_in_the_core():
    import bitrl

    assert {layer(module) for module in bitrl._HOME} <= {*CORE}
    assert bitrl._HOME.keys() <= graph().keys()


def test_a_name_means_one_thing():
    found: dict[str, set[str]] = {}
    for name in MODULES:
        if name.startswith(("bitrl.core.", "bitrl.plugins.")):
            package, _, last = name.rpartition(".")
            if package.rpartition(".")[2] != last:  # the main module of a package that is called by its name
                found.setdefault(last, set()).add(name)
    several_modules = {name for name, meant in found.items() if len(meant) > 1}
    several_classes = {name for name, meant in classes(MODULES).items() if len(meant) > 1 and name[0] != "_"}
    allowed = ONE_NAME_FOR_SEVERAL_MODULES.keys() | ONE_NAME_FOR_SEVERAL_CLASSES.keys()
    assert (several_modules | several_classes) - allowed == set(), "rename one, or say why both are called so"
    assert ONE_NAME_FOR_SEVERAL_MODULES.keys() <= several_modules
    assert ONE_NAME_FOR_SEVERAL_CLASSES.keys() <= several_classes


@pytest.mark.parametrize(
    ("sources", "circle"),
    [
        ({"a": "import bitrl.core.b", "b": "import json"}, set()),
        ({"a": "import bitrl.core.b", "b": "def f():\n    from bitrl.core import a"}, {"a", "b"}),
        ({"a": "from bitrl.core.b import x", "b": "from . import c", "c": "from .a import y"}, {"a", "b", "c"}),
        (
            {
                "a": "import bitrl.core.b",
                "b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import bitrl.core.a\nelse:\n    x = 1",
            },
            set(),
        ),
        ({"a": "import bitrl.core.p.q", "p/__init__": "import bitrl.core.a", "p/q": ""}, {"a", "p"}),
        ({"p/__init__": "from bitrl.core.p.q import x", "p/q": "import bitrl.core.p.r", "p/r": ""}, set()),
        ({"p/__init__": "from bitrl.core.p.q import x", "p/q": "from bitrl.core.p import x"}, {"p", "p.q"}),
    ],
    ids=["none", "inside a function", "relative", "for types alone", "by a package", "a package's face", "back to it"],
)
def test_a_circle_is_found(tmp_path, sources, circle):
    for name, text in sources.items():
        path = tmp_path / "core" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = first_circle(import_graph(modules(tmp_path)))
    assert {name.removeprefix("bitrl.core.") for name in found} == circle
