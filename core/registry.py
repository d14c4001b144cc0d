"""Finds plugins, built-in and third-party, and looks components up by name.

One plugin that fails never breaks another: what went wrong is kept as a `Problem` for `bitrl doctor`, and becomes
an error only when the missing component is asked for. Nothing here imports a component's code.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import io
import os
import sys
import time
import types
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import attrs
import pluggy

from bitrl.core import hookspecs
from bitrl.core.errors import BitrlError, UsageError, cause, unknown
from bitrl.core.events import Event, own_copy, wants
from bitrl.core.records import (
    AlgorithmRecord,
    BackboneRecord,
    CommandRecord,
    DoctorCheckRecord,
    EnergyMeterRecord,
    EnvironmentRecord,
    LoggerRecord,
    Record,
    SerializerRecord,
)
from bitrl.core.terminal import tell
from bitrl.core.wording import pip, program

HOOKS: dict[str, tuple[str, type[Record]]] = {
    "serializer": ("bitrl_serializers", SerializerRecord),
    "backbone": ("bitrl_backbones", BackboneRecord),
    "algorithm": ("bitrl_algorithms", AlgorithmRecord),
    "environment": ("bitrl_environments", EnvironmentRecord),
    "logger": ("bitrl_loggers", LoggerRecord),
    "command": ("bitrl_commands", CommandRecord),
    "doctor-check": ("bitrl_doctor_checks", DoctorCheckRecord),
    "energy-meter": ("bitrl_energy_meters", EnergyMeterRecord),
}
"""Kind of component → (its hook, its record class)."""

_KINDS = {hook for hook, _ in HOOKS.values()}

BUILT_IN = "bitrl"
"""The package of the built-in components."""

HEAVY = (
    "gymnasium", "jax", "matplotlib", "numpy", "pandas", "scipy", "sklearn", "tensorflow", "torch", "transformers",
)  # fmt: skip
"""What reading a plugin's records must not import: `bitrl --help` and `bitrl list` read every record there is."""

MOST_RECORDS = 10_000
"""Records that one hook may yield: more than any plugin has, and one that yields them for ever is found at once."""

SLOW_SECONDS = 1.0
"""Reading a plugin's records should take no longer than this, whatever it imports."""

STUCK_SECONDS = 5.0
"""A plugin that is still being read after this is named: it may never return."""


@attrs.frozen
class Entry:
    """A record and the package that provides it."""

    package: str
    record: Record


@attrs.frozen
class Problem:
    """A problem with a plugin: the package, and a one-line description."""

    package: str
    message: str


class Registry:
    """The components of every plugin added to it.

    Attributes:
        problems: what is wrong with plugins, or parts of them, that were left out.
        costs: what plugins do when they are only read: import heavy modules, print, or take long.
    """

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.packages: dict[str, str] = {}
        self.problems: list[Problem] = []
        self.costs: list[Problem] = []
        self.entries: dict[str, list[Entry]] = {kind: [] for kind in HOOKS}
        self._reported: set[str] = set()
        self._added: list[Any] = []
        self._reading = ""

    def add_installed(self, only: str | None = None) -> None:
        """Add every plugin that an installed distribution (or `only` the named one) declares in the group
        `bitrl`.
        """
        for point in sorted(entry_points(group=hookspecs.PROJECT), key=lambda point: (_package(point), point.name)):
            package = _package(point)
            if only is not None and package != only:
                continue
            self._reading = f"entry point {point.name} = {point.value}"
            with self._measuring(package), self._named_if_stuck(package):
                try:
                    plugin = point.load()
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # sys.exit(), or a panic in an extension module
                    self.problems.append(
                        Problem(package, f"entry point {point.name} = {point.value} failed: {one_line(error)}")
                    )
                else:
                    self.add(plugin, package)

    def add(self, plugin: Any, package: str) -> None:
        """Add one plugin (a module or object with hook implementations) on behalf of `package`.

        Each hook is registered by itself, so that one which is wrong leaves the plugin's others.
        """
        if any(plugin is each for each in self._added):
            self.problems.append(
                Problem(package, f"two entry points name the same plugin, {_name(plugin)}: remove one")
            )
            return
        self._added.append(plugin)
        added: list[Any] = []
        try:
            hooks = [*self._hooks(plugin, package)]
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.problems.append(Problem(package, one_line(error)))
            return
        for hook in hooks:
            if why := self._never_called(plugin, hook):
                self.problems.append(Problem(package, f"{hook} is not called: {why}"))
                continue
            alone = types.SimpleNamespace(**{hook: getattr(plugin, hook)})
            name = f"{package} {_name(plugin)} {id(plugin)} {hook}"
            try:
                self.manager.register(alone, name)
            except Exception as error:  # pluggy's own, of a wrong signature
                if self.manager.is_registered(alone):
                    self.manager.unregister(alone)
                self.problems.append(Problem(package, _refused_hook(hook, getattr(plugin, hook), error)))
                continue
            if hook == "bitrl_event" and _runs_nothing(getattr(plugin, hook)):
                self.problems.append(
                    Problem(
                        package, "bitrl_event is a generator or async, so nothing in it runs: write a plain function"
                    )
                )
            self.packages[name] = package
            added.append(alone)
        for kind, (hook, record_class) in HOOKS.items():
            for implementation in self._implementations(hook, added):
                found = self.entries[kind]
                before, self._reading = len(found), hook
                try:
                    records: Any = implementation.function()
                    for record in records or ():
                        if not isinstance(record, record_class):
                            raise TypeError(f"expected {record_class.__name__} records, got {record!r}")
                        if len(found) - before == MOST_RECORDS:
                            del found[before:]
                            raise ValueError(f"it yields more than {MOST_RECORDS:,} records: does its loop end?")
                        found.append(Entry(package, record))
                except KeyboardInterrupt:
                    raise
                except BaseException as error:
                    self.problems.append(Problem(package, f"{hook} failed: {one_line(error)}"))

    def find(self, kind: str, name: str, *, built_in_first: bool = False) -> Any:
        """The record called `name`, or `package:name` where two packages share it. An alias works too; a line on
        stderr gives, once, the current name.

        Args:
            kind: of the component.
            name: as a user, a default or a saved run gives it.
            built_in_first: `name` was not chosen now (it is a default, or a saved run's): where a plugin has taken the
                name of a built-in component, it means the built-in one.

        Raises:
            UsageError: no such component (with similar names), or the name is ambiguous.
        """
        package, colon, short = name.partition(":")
        entries = self.entries[kind]
        found = [entry for entry in entries if entry.record.name == name]
        if not found and colon:
            found = [entry for entry in entries if entry.package == package and entry.record.name == short]
        if not found:
            found = [entry for entry in entries if _without_package(entry, name) in entry.record.aliases]
            if len(found) == 1:
                self._report_alias(kind, found[0], _without_package(found[0], name))
        if not found:
            broken = ", ".join(sorted({problem.package for problem in self.problems}))
            hint = f"plugins with problems: {broken}; see {program()} doctor" if broken else ""
            raise unknown(kind, name, {entry.record.name for entry in entries}, hint)
        if built_in_first and len(own := [entry for entry in found if entry.package == BUILT_IN]) == 1:
            found = own
        if len(found) > 1:
            packages = [entry.package for entry in found]
            if twice := [package for package in packages if packages.count(package) > 1]:
                raise UsageError(f'{kind} "{name}" is registered twice by {twice[0]}: rename one of the two')
            choices = " or ".join(f'"{entry.package}:{entry.record.name}"' for entry in found)
            raise UsageError(f'{kind} "{name}" is provided by {" and ".join(packages)}: choose {choices}')
        return found[0].record

    def knows(self, kind: str, name: str) -> bool:
        """Whether a plugin provides a component under this name, an alias, or either as `package:name`."""
        return any(
            name in (each, f"{entry.package}:{each}")
            for entry in self.entries[kind]
            for each in (entry.record.name, *entry.record.aliases)
        )

    def package(self, record: Record) -> str | None:
        """The package that provides `record`; None for one that no plugin has yielded."""
        found = (entry.package for entries in self.entries.values() for entry in entries if entry.record is record)
        return next(found, None)

    def current_name(self, kind: str, name: str) -> str:
        """`name`, or where it is an alias, the current name of the component. Raises UsageError as `find` does."""
        record = self.find(kind, name, built_in_first=True)
        package, colon, short = name.rpartition(":")
        return package + colon + record.name if short in record.aliases and short != record.name else name

    def _report_alias(self, kind: str, entry: Entry, alias: str) -> None:
        """Report on stderr, once per process, that a component was requested by an earlier name."""
        self.report(f"{kind} {alias} {entry.record.aliases[alias]} and is now called {entry.record.name}")

    def report(self, line: str) -> None:
        """Print `line` on stderr, once per process."""
        if line not in self._reported:
            self._reported.add(line)
            tell(line)

    def conflicts(self) -> list[Problem]:
        """One problem for every name that two plugins share."""
        problems = []
        for kind, entries in self.entries.items():
            for name in sorted({entry.record.name for entry in entries}):
                packages = [entry.package for entry in entries if entry.record.name == name]
                packages.sort(key=lambda package: package != BUILT_IN)  # it is the plugin's conflict
                if len({*packages}) < len(packages):
                    problems.append(
                        Problem(packages[-1], f'{kind} "{name}" is registered twice: rename one of the two')
                    )
                elif len(packages) > 1:
                    problems.append(
                        Problem(packages[-1], f'{kind} "{name}" is also provided by {", ".join(packages[:-1])}')
                    )
        return problems

    def send(self, event: Event) -> list[Problem]:
        """Send `event` to every plugin that wants it, each with a copy of its own; a listener that fails is reported,
        and the others still receive it.
        """
        failed = []
        for implementation in self._implementations("bitrl_event"):
            if not wants(implementation.function, event):
                continue
            try:
                implementation.function(*([own_copy(event)] if implementation.argnames else []))
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                package = self.packages.get(implementation.plugin_name, implementation.plugin_name)
                failed.append(Problem(package, f"bitrl_event failed on {type(event).__name__}: {one_line(error)}"))
        return failed

    def _implementations(self, hook: str, plugins: list[Any] | None = None) -> list[pluggy.HookImpl]:
        implementations = getattr(self.manager.hook, hook).get_hookimpls()
        return [each for each in implementations if plugins is None or any(each.plugin is own for own in plugins)]

    def _hooks(self, plugin: Any, package: str) -> Iterator[str]:
        """The hooks that a plugin implements; those misspelt or not marked become problems."""
        known = [name for name in dir(hookspecs) if name.startswith(f"{hookspecs.PROJECT}_")]
        for name in dir(plugin):
            marked = self.manager.parse_hookimpl_opts(plugin, name) is not None
            if name not in known and marked:
                near = difflib.get_close_matches(name, known, n=1)
                rest = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
                self.problems.append(Problem(package, f"unknown hook {name}: {rest}"))
            elif name in known and not marked and callable(getattr(plugin, name)):
                self.problems.append(
                    Problem(package, f"{name} is not marked with @bitrl.hookimpl, so it is not called")
                )
            elif marked:
                yield name

    def _never_called(self, plugin: Any, hook: str) -> str | None:
        """Why an implementation of a hook could yield no records, if that shows before it is called."""
        options: Any = self.manager.parse_hookimpl_opts(plugin, hook) or {}
        if options.get("wrapper") or options.get("hookwrapper"):
            return "it wraps other plugins' hooks, which bitrl calls one by one: mark it with @bitrl.hookimpl alone"
        function = getattr(plugin, hook)
        if hook in _KINDS and (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
            return "it is async: write a plain function"
        return None

    @contextlib.contextmanager
    def _named_if_stuck(self, package: str) -> Iterator[None]:
        """Say which plugin is being read, and what of it, if that takes so long that it may never end."""
        if package == BUILT_IN:
            yield
            return
        import threading  # which a program without plugins does without

        timer = threading.Timer(
            STUCK_SECONDS,
            lambda: tell(
                f"plugin {package}: its {self._reading} has not returned for {STUCK_SECONDS:.0f} s: if it never does, "
                f"stop this (Ctrl-C) and uninstall the plugin ({pip(f'uninstall {package}')}), or tell its authors"
            ),
        )
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @contextlib.contextmanager
    def _measuring(self, package: str) -> Iterator[None]:
        """Note in `costs` what reading a plugin imports, prints and takes; what it prints goes to stderr."""
        before, began = {*sys.modules}, time.perf_counter()
        with _stdout_to_stderr() as printed:
            yield
        text = printed.text()
        seconds = time.perf_counter() - began
        heavy = [name for name in HEAVY if name in sys.modules and name not in before]
        if package == BUILT_IN:
            return
        costs = [f"imports {', '.join(heavy)}"] if heavy else []
        costs += [f"prints {one_line_of(text)!r}"] if text.strip() else []
        if costs or seconds > SLOW_SECONDS:
            does = " and ".join(costs) or "takes long"
            self.costs.append(
                Problem(
                    package,
                    f"{does} whenever it is listed ({seconds:.1f} s): leave only options and records in the module "
                    "of its hooks",
                )
            )


class _Printed(io.BytesIO):
    """What was written to a stream, also after whoever wrote has closed it."""

    def close(self) -> None:
        """Keep what was written."""

    def text(self) -> str:
        """All of it."""
        return self.getvalue().decode(errors="replace")


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[_Printed]:
    """Send what is written to stdout to stderr; what Python code prints there is also in the object that this yields.

    A program may read this process's stdout, and expects there what a command prints.
    """
    printed = _Printed()
    stream = io.TextIOWrapper(printed, encoding="utf-8", errors="replace", write_through=True)
    try:
        sys.stdout.flush()
        real: int | None = os.dup(1)
        os.dup2(2, 1)  # for what is printed from C, or by other processes
    except (OSError, AttributeError, ValueError):  # this process has no stdout or no stderr
        real = None
    try:
        with contextlib.redirect_stdout(stream):
            yield printed
    finally:
        if real is not None:
            os.dup2(real, 1)
            os.close(real)
        if text := printed.text():
            tell(text.removesuffix("\n"))


def _runs_nothing(function: Any) -> bool:
    """Whether a call only makes an object (a generator, a coroutine) that would have to be run."""
    return inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function)


def _refused_hook(hook: str, function: Any, error: BaseException) -> str:
    """Why an implementation of `hook` is not called."""
    takes = inspect.signature(getattr(hookspecs, hook)).parameters
    try:
        given = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):
        given = []
    extra = [each.name for each in given if each.name not in takes and each.default is each.empty]
    if not extra:
        return f"{hook} is not called: {one_line(error)}"
    expected = f"only {', '.join(takes)}" if takes else "no arguments"
    return f"{hook}({', '.join(extra)}) is not called: bitrl passes {expected}: write def {hook}({', '.join(takes)})"


def _package(point: Any) -> str:
    return str(point.dist.name if point.dist is not None else point.value.partition(".")[0])


def _without_package(entry: Entry, name: str) -> str:
    return name.removeprefix(f"{entry.package}:")


def _name(plugin: Any) -> str:
    return getattr(plugin, "__name__", None) or type(plugin).__name__


def one_line_of(text: str, most: int = 60) -> str:
    """`text` on one line, shortened."""
    words = " ".join(text.split())
    return words if len(words) <= most else f"{words[: most - 1]}…"


def one_line(error: BaseException) -> str:
    """What went wrong in a plugin, as one line; bitrl's own errors omit the exception's name."""
    return one_line_of(str(error) if isinstance(error, BitrlError) else cause(error), 500)


@functools.cache
def registry() -> Registry:
    """The registry of the installed plugins, read once per process."""
    installed = Registry()
    installed.add_installed()
    return installed
