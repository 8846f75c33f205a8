"""Finding, isolating and listing plugins.

Built-in engines and codecs, the in-tree families and a stranger's package come the same way: an entry point of the group
``ganserve``. Each is loaded alone; one that fails is listed with its reason and takes nothing else down.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

import msgspec
import pluggy

from ganserve import hookspecs
from ganserve.errors import PluginError
from ganserve.prompts import PromptPolicy
from ganserve.spec import Codec, Engine, Family

GROUP = "ganserve"
"""Marker, entry-point group and environment prefix."""

ALLOW_VARIABLE = "GANSERVE_PLUGINS"
"""Environment variable: a comma-separated allow-list of plugin names; unset allows all."""

T = TypeVar("T", Family, Engine, Codec, PromptPolicy)


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """One plugin as ``ganserve plugins`` lists it."""

    name: str
    distribution: str
    version: str
    status: Literal["active", "disabled", "failed"]
    hooks: tuple[str, ...] = ()
    reason: str = ""


class Plugins:
    """The plugins of this process and the records they gave, by name."""

    def __init__(self, manager: pluggy.PluginManager, plugins: Iterable[Plugin]) -> None:
        """Ask every registered plugin its questions; raise :class:`PluginError` where two claim one name."""
        self._manager = manager
        self._plugins = list(plugins)
        self._registered = {plugin.name: n for n, plugin in enumerate(self._plugins) if plugin.status == "active"}
        self.families: Mapping[str, Family] = self._collect("ganserve_families", "family", Family)
        self.engines: Mapping[str, Engine] = self._collect("ganserve_engines", "engine", Engine)
        self.codecs: Mapping[str, Codec] = self._collect("ganserve_codecs", "codec", Codec)
        self.prompt_policies: Mapping[str, PromptPolicy] = self._collect(
            "ganserve_prompt_policies", "prompt policy", PromptPolicy
        )

    def __iter__(self) -> Iterator[Plugin]:
        """Every plugin, loaded or not, by name."""
        return iter(sorted(self._plugins, key=lambda plugin: plugin.name))

    def family(self, name: str) -> Family:
        """The family called ``name``."""
        return self._get(self.families, "family", name)

    def engine(self, name: str) -> Engine:
        """The engine called ``name``."""
        return self._get(self.engines, "engine", name)

    def codec(self, name: str) -> Codec:
        """The codec called ``name``."""
        return self._get(self.codecs, "codec", name)

    def prompt_policy(self, name: str) -> PromptPolicy:
        """The prompt policy called ``name``."""
        return self._get(self.prompt_policies, "prompt policy", name)

    def add_commands(self, cli: Any) -> None:
        """Let every plugin add its commands to ``cli``."""
        for implementation in self._manager.hook.ganserve_commands.get_hookimpls():
            try:
                implementation.function(cli)
            except Exception as error:
                self._fail(implementation.plugin_name, error)

    def _fail(self, name: str, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        number = self._registered[name]
        self._plugins[number] = msgspec.structs.replace(self._plugins[number], status="failed", reason=reason)

    def _collect(self, hook: str, noun: str, record: type[T]) -> Mapping[str, T]:
        found: dict[str, tuple[T, str]] = {}
        for implementation in reversed(getattr(self._manager.hook, hook).get_hookimpls()):
            plugin = implementation.plugin_name
            try:
                answers = list(implementation.function() or ())
                wrong = next((answer for answer in answers if not isinstance(answer, record)), None)
                if wrong is not None:
                    raise PluginError(f"{hook} returned {wrong!r}: expected {record.__name__} records")
            except Exception as error:
                self._fail(plugin, error)
                continue
            for answer in answers:
                if answer.name in found:
                    other = found[answer.name][1]
                    raise PluginError(
                        f"two plugins claim the {noun} name {answer.name!r}: {self._title(other)} and "
                        f"{self._title(plugin)}; disable one with {ALLOW_VARIABLE} or rename it"
                    )
                found[answer.name] = (answer, plugin)
        return {name: answer for name, (answer, _) in sorted(found.items())}

    def _title(self, name: str) -> str:
        plugin = self._plugins[self._registered[name]]
        return f"{plugin.name} ({plugin.distribution} {plugin.version})"

    def _get(self, records: Mapping[str, T], noun: str, name: str) -> T:
        if name not in records:
            failed = [f"{p.name} failed: {p.reason}" for p in self if p.status == "failed"]
            hint = f" ({'; '.join(failed)})" if failed else ""
            raise PluginError(f"no plugin provides the {noun} {name!r}; there are {', '.join(records) or 'none'}{hint}")
        return records[name]


def load(plugins_dir: Path | None = None, extra: Iterable[ModuleType] = ()) -> Plugins:
    """Load every allowed plugin: installed ones, the packages found in ``plugins_dir``, then ``extra`` modules (tests)."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    allowed = _allowed()
    plugins = []
    for name, distribution, version, import_module in _candidates(plugins_dir, extra):
        plugin = partial(Plugin, name=name, distribution=distribution, version=version)
        if allowed is not None and name not in allowed:
            plugins.append(plugin(status="disabled", reason=f"not in {ALLOW_VARIABLE}"))
            continue
        try:
            hooks = _register(manager, import_module(), name)
        except (Exception, SystemExit) as error:
            plugins.append(plugin(status="failed", reason=f"{type(error).__name__}: {error}"))
        else:
            plugins.append(plugin(status="active", hooks=hooks))
    return Plugins(manager, plugins)


@cache
def installed() -> Plugins:
    """The plugins of this environment, loaded once."""
    return load()


def resolve(reference: str) -> Any:
    """The object that a checked ``"module:attribute"`` reference names."""
    module, _, attribute = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise PluginError(
            f"{reference!r} cannot be imported: {type(error).__name__}: {error}; is the package (or its extra) installed?"
        ) from error


def _allowed() -> set[str] | None:
    value = os.environ.get(ALLOW_VARIABLE)
    return None if value is None else {name.strip() for name in value.split(",") if name.strip()}


def _candidates(plugins_dir: Path | None, extra: Iterable[ModuleType]) -> Iterable[tuple[str, str, str, Any]]:
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        distribution = entry.dist.name if entry.dist else "unknown"
        yield entry.name, distribution, entry.dist.version if entry.dist else "0", entry.load
    if plugins_dir is not None:
        if not plugins_dir.is_dir():
            raise PluginError(
                f"--plugins-dir {plugins_dir} is not a folder; give the folder that holds plugin packages"
            )
        for package in sorted([*plugins_dir.glob("*/__init__.py"), *plugins_dir.glob("*/ganserve_*/__init__.py")]):
            yield package.parent.name, str(package.parent), "0", lambda package=package: _import_file(package)
    for module in extra:
        yield module.__name__, "this process", "0", lambda module=module: module


def _import_file(init: Path) -> ModuleType:
    name = init.parent.name
    spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(init.parent)])
    if spec is None or spec.loader is None:
        raise PluginError(f"{init} cannot be imported as a package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _register(manager: pluggy.PluginManager, module: ModuleType, name: str) -> tuple[str, ...]:
    known = {hook for hook in vars(hookspecs) if hook.startswith(f"{GROUP}_")}
    # pluggy stays silent about a hook it does not know; a misspelt hook would then simply never be asked.
    named = {
        attribute
        for attribute in vars(module)
        if attribute.startswith(f"{GROUP}_") and callable(getattr(module, attribute))
    }
    marked = {attribute for attribute in named if hasattr(getattr(module, attribute), f"{GROUP}_impl")}
    if unknown := marked - known:
        raise PluginError(f"unknown hook {', '.join(sorted(unknown))}: the hooks are {', '.join(sorted(known))}")
    if forgotten := (named - marked) & known:
        raise PluginError(f"{', '.join(sorted(forgotten))} is not marked: write @ganserve.hookimpl above it")
    if manager.has_plugin(name):
        raise PluginError(f"another plugin is already called {name!r}: rename one of them, or remove one")
    manager.register(module, name=name)
    return tuple(sorted(marked))
