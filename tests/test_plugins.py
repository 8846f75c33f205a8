"""Plugins: each loaded alone; one that fails is listed with its reason and takes nothing else down."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from ganserve import hookimpl, hookspecs
from ganserve.errors import PluginError
from ganserve.plugins import Plugin, Plugins, load, resolve
from ganserve.spec import Codec, Engine, Family


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No allow-list, and no module of a test's plugin left behind."""
    monkeypatch.delenv("GANSERVE_PLUGINS", raising=False)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("ganserve_x", "good", "bad", "plugin_")):
            del sys.modules[name]


def package(folder: Path, name: str, source: str) -> Path:
    """A plugin as a stranger writes one: a package in a folder."""
    made = folder / name
    made.mkdir(parents=True)
    (made / "__init__.py").write_text(source)
    return made


def module(name: str, **attributes: Any) -> ModuleType:
    made = ModuleType(name)
    for attribute, value in attributes.items():
        setattr(made, attribute, value)
    return made


def found(plugins: Plugins, name: str) -> Plugin:
    (plugin,) = [plugin for plugin in plugins if plugin.name == name]
    return plugin


CODEC = """
from ganserve import hookimpl
from ganserve.spec import Codec

@hookimpl
def ganserve_codecs():
    return [Codec(name="NAME", summary="a test's", decode="good_module:attribute")]
"""


def codec(name: str) -> Any:
    @hookimpl
    def ganserve_codecs() -> list[Codec]:
        return [Codec(name=name, summary="a test's", encode="some.module:attribute")]

    return ganserve_codecs


def test_ganserve_engines_come_from_plugins_like_any_other() -> None:
    plugins = load()
    assert {"onnxruntime", "openvino", "tensorrt", "torch"} <= set(plugins.engines)
    assert plugins.engine("onnxruntime").name == "onnxruntime"
    assert found(plugins, "onnxruntime").hooks == ("ganserve_engines",)


def test_ganserve_codecs_come_from_plugins_like_any_other() -> None:
    plugins = load()
    assert {"noise", "label", "number", "image", "array"} <= set(plugins.codecs)
    plugin = found(plugins, "codecs")
    assert (plugin.status, plugin.distribution) == ("active", "ganserve")
    assert plugin.version


def test_ganserve_prompt_policies_come_from_plugins_like_any_other() -> None:
    plugins = load()
    assert plugins.prompt_policy("block-list").name == "block-list"
    assert found(plugins, "prompts").hooks == ("ganserve_prompt_policies",)
    with pytest.raises(PluginError, match=r"no plugin provides the prompt policy 'kind'; there are .*block-list"):
        plugins.prompt_policy("kind")


def test_ganserve_families_come_from_plugins(tmp_path: Path) -> None:
    source = """
from ganserve import hookimpl
from ganserve.spec import Family

@hookimpl
def ganserve_families():
    return [Family(name="xgan", summary="a test's", paper="none", presets={"tiny": {}}, spec=dict,
                   build="a:b", train="a:b", export="a:b")]
"""
    package(tmp_path, "ganserve_xgan", source)
    plugins = load(tmp_path)
    assert plugins.family("xgan").config("tiny") == {}
    assert isinstance(plugins.family("xgan"), Family)
    with pytest.raises(PluginError, match=r"no plugin provides the family 'ygan'; there are .*xgan"):
        plugins.family("ygan")


def test_ganserve_commands_add_to_the_command_line_and_a_failing_one_adds_nothing() -> None:
    @hookimpl
    def good(cli: click.Group) -> None:
        cli.add_command(click.Command("hello"))

    @hookimpl
    def bad(cli: click.Group) -> None:
        raise RuntimeError("no command today")

    plugins = load(extra=[module("good", ganserve_commands=good), module("bad", ganserve_commands=bad)])
    cli = click.Group()
    plugins.add_commands(cli)
    assert "hello" in cli.commands
    assert found(plugins, "bad").status == "failed"
    assert found(plugins, "bad").reason == "RuntimeError: no command today"
    assert found(plugins, "good").status == "active"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import nonsense_that_is_not_installed", "ModuleNotFoundError: No module named 'nonsense_that_is_not"),
        ("raise RuntimeError('half written')", "RuntimeError: half written"),
        ("def broken(:", "SyntaxError: invalid syntax"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        (CODEC.replace("ganserve_codecs", "ganserve_codec"), "PluginError: unknown hook ganserve_codec: the hooks are"),
        (CODEC.replace("@hookimpl", ""), "ganserve_codecs is not marked: write @ganserve.hookimpl above it"),
        (CODEC.replace("ganserve_codecs()", "ganserve_codecs(everything)"), "PluginValidationError"),
        (CODEC.replace("return [", "return 1 / 0 or ["), "ZeroDivisionError"),
        (CODEC.replace("return [", "return ['no record'] or ["), "returned 'no record': expected Codec records"),
        (CODEC.replace('"NAME"', '"../NAME"'), "SpecError: codec name '../NAME' is not allowed"),
        (CODEC.replace("good_module:attribute", "good_module"), "SpecError: .* is not a reference; write 'package"),
    ],
)
def test_a_plugin_that_fails_is_listed_with_its_reason_and_the_others_work(
    tmp_path: Path, source: str, reason: str
) -> None:
    package(tmp_path, "bad", source)
    package(tmp_path, "good", CODEC.replace("NAME", "good"))
    plugins = load(tmp_path)
    bad = found(plugins, "bad")
    assert bad.status == "failed"
    assert re.search(reason, bad.reason)
    assert plugins.codec("good").name == "good"
    assert plugins.codec("noise").name == "noise"
    assert "NAME" not in plugins.codecs
    with pytest.raises(PluginError, match=r"no plugin provides the codec 'NAME'.*bad failed"):
        plugins.codec("NAME")


def test_two_plugins_that_claim_one_name_are_both_named(tmp_path: Path) -> None:
    package(tmp_path, "good", CODEC.replace("NAME", "same"))
    with pytest.raises(PluginError) as error:
        load(tmp_path, [module("plugin_b", ganserve_codecs=codec("same"))])
    message = str(error.value)
    assert "two plugins claim the codec name 'same'" in message
    assert f"good ({tmp_path / 'good'} 0)" in message
    assert "plugin_b (this process 0)" in message
    assert "disable one with GANSERVE_PLUGINS or rename it" in message


def test_a_second_plugin_of_one_name_fails_and_leaves_the_first(tmp_path: Path) -> None:
    package(tmp_path, "good", CODEC.replace("NAME", "first"))
    plugins = load(tmp_path, [module("good", ganserve_codecs=codec("second"))])
    assert [plugin.status for plugin in plugins if plugin.name == "good"] == ["active", "failed"]
    assert "another plugin is already called 'good'" in [p.reason for p in plugins if p.name == "good"][1]
    assert "first" in plugins.codecs
    assert "second" not in plugins.codecs


def test_the_allow_list_disables_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "good", CODEC.replace("NAME", "good"))
    package(tmp_path, "bad", "raise RuntimeError('it was imported')")
    monkeypatch.setenv("GANSERVE_PLUGINS", "codecs, good,")
    plugins = load(tmp_path)
    assert {plugin.name for plugin in plugins if plugin.status == "active"} == {"codecs", "good"}
    assert {plugin.reason for plugin in plugins if plugin.status == "disabled"} == {"not in GANSERVE_PLUGINS"}
    assert not plugins.engines
    monkeypatch.setenv("GANSERVE_PLUGINS", "")
    assert {plugin.status for plugin in load(tmp_path)} == {"disabled"}


def test_a_plugins_folder_holds_packages_or_distributions(tmp_path: Path) -> None:
    package(tmp_path, "good", CODEC.replace("NAME", "direct"))
    package(tmp_path / "project", "ganserve_xone", CODEC.replace("NAME", "inside"))
    plugins = load(tmp_path)
    assert {"direct", "inside"} <= set(plugins.codecs)
    assert found(plugins, "ganserve_xone").distribution.endswith("ganserve_xone")
    with pytest.raises(PluginError, match="is not a folder; give the folder that holds plugin packages"):
        load(tmp_path / "absent")


def test_a_package_may_import_its_own_modules(tmp_path: Path) -> None:
    made = package(tmp_path, "ganserve_xtwo", "from ganserve_xtwo.parts import ganserve_codecs")
    (made / "parts.py").write_text(CODEC.replace("NAME", "parted"))
    assert "parted" in load(tmp_path).codecs


def test_a_reference_that_leads_nowhere_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("ganserve.codecs.seeds:draw").__name__ == "draw"
    with pytest.raises(PluginError, match=r"'ganserve.absent:thing' cannot be imported: ModuleNotFoundError"):
        resolve("ganserve.absent:thing")
    with pytest.raises(PluginError, match=r"has no attribute 'nothing'; is the package \(or its extra\) installed"):
        resolve("ganserve.codecs.seeds:nothing")
    (tmp_path / "plugin_raising.py").write_text("raise RuntimeError('at import')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match="RuntimeError: at import"):
        resolve("plugin_raising:thing")


def test_records_of_another_kind_than_the_hook_asks_for_are_refused() -> None:
    @hookimpl
    def ganserve_engines() -> list[Codec]:
        return [Codec(name="wrong", summary="no engine")]

    plugins = load(extra=[module("bad", ganserve_engines=ganserve_engines)])
    assert "ganserve_engines returned Codec" in found(plugins, "bad").reason
    assert all(isinstance(engine, Engine) for engine in plugins.engines.values())


def test_every_hook_has_a_test_here_that_is_named_after_it() -> None:
    hooks = {name for name in vars(hookspecs) if name.startswith("ganserve_")}
    tests = [name for name in globals() if name.startswith("test_ganserve_")]
    assert hooks
    assert {hook for hook in hooks if not any(test.startswith(f"test_{hook}") for test in tests)} == set()
