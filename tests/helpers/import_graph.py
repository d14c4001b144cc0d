"""Which module imports which, read from the sources: nothing is imported to find out."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

FOLDERS = {
    "src/bitrl": "bitrl",
    "core": "bitrl.core",
    "core/testing": "bitrl.testing",
    "plugins": "bitrl.plugins",
    "cli": "bitrl.cli",
}
"""Folder → the name that it is imported by (pyproject.toml, package-dir)."""


def modules(root: Path) -> dict[str, Path]:
    """Every module under `root`: the name it is imported by → its file."""
    found: dict[str, Path] = {}
    for folder, package in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            if (folder, *parts[:1]) != ("core", "testing"):
                found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


def imports(name: str, path: Path, known: Iterable[str] = (), inside_functions: bool = True) -> set[str]:
    """The modules that a module imports; not those for type checkers alone, and on wish not those inside functions.

    `from package import thing` is an import of `package.thing` where that is `known` as a module, else of `package`.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in _executed(ast.parse(path.read_text(encoding="utf-8")), inside_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                found.add(f"{module}.{alias.name}" if f"{module}.{alias.name}" in known else module)
    return found


def _executed(node: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    """All nodes beneath one, but those under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from _executed(other, inside_functions)
        elif inside_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _executed(child, inside_functions)


def import_graph(found: Mapping[str, Path]) -> dict[str, set[str]]:
    """Module → all that it imports: modules of bitrl and of other packages, as they are named there."""
    return {name: imports(name, path, found) for name, path in found.items()}


def first_circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules of which each imports the next, the last being the first; empty where there are none.

    To import `a.b.c` runs the packages `a` and `a.b` first, so these are imported too, unless the importer lies in them
    itself and they run already.
    """
    edges: dict[str, set[str]] = {}
    for name, imported in graph.items():
        edges[name] = imported & graph.keys()
        for other in imported:
            edges[name] |= {
                above for above in _packages(other) if not f"{name}.".startswith(f"{above}.")
            } & graph.keys()
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return []


def _packages(name: str) -> list[str]:
    """The packages that a module lies in: `a.b.c` → `a`, `a.b`."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def classes(found: Mapping[str, Path]) -> dict[str, set[str]]:
    """Class → the modules that define one of that name at their top."""
    defined: dict[str, set[str]] = {}
    for name, path in found.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                defined.setdefault(node.name, set()).add(name)
    return defined
