import copy
import json
import pickle
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from yoi_daemon.model.manifest import ApiSource, HookSource, TimerSource
from yoi_daemon.sdk import (
    API_VERSION,
    Config,
    Context,
    IngressEvent,
    Plugin,
    PluginDefinitionError,
    Secret,
)

if TYPE_CHECKING:
    from somewhere import OnlyForTypes  # pyright: ignore


class Push(msgspec.Struct):
    ref: str


class Opaque:
    pass


def test_making_a_plugin_has_no_effect_but_notes():
    plugin = Plugin("gen")
    assert (plugin.name, plugin.config_type, plugin.api_version) == ("gen", Config, API_VERSION)
    assert not plugin.manifest().has_service
    assert plugin.ingresses == {}


def test_functions_are_noted_and_given_back_as_they_were():
    plugin = Plugin("gen")

    @plugin.start
    async def start(ctx: Context) -> None: ...

    @plugin.status
    def status(ctx: Context) -> dict[str, Any]:
        return {}

    @plugin.stop
    async def stop(ctx: Context) -> None: ...

    assert plugin.on_start is not None
    assert plugin.on_status is not None
    assert plugin.on_stop is not None
    assert (plugin.on_start.call, plugin.on_start.is_async) == (start, True)
    assert (plugin.on_status.call, plugin.on_status.is_async) == (status, False)
    assert plugin.on_stop.call is stop
    assert plugin.manifest().has_service


def test_an_ingress_decodes_to_what_its_handler_takes():
    plugin = Plugin("gen")

    @plugin.ingress("typed", verify="github", headers=("X-Thing",), on_retry="hold")
    async def typed(ctx: Context, event: IngressEvent[Push]) -> None: ...

    @plugin.ingress("any")
    async def anything(ctx: Context, event: IngressEvent) -> None: ...

    @plugin.ingress("bare")
    def bare(ctx, event): ...

    spec = plugin.ingresses["typed"]
    assert spec.decoder.decode(b'{"ref": "x", "more": 1}') == Push("x")
    assert spec.declaration.source == HookSource("github", ("x-thing",))
    assert spec.declaration.on_retry == "hold"
    assert plugin.ingresses["any"].declaration.source == ApiSource()
    for name in ("any", "bare"):
        assert plugin.ingresses[name].decoder.decode(b"[1]") == [1]
    assert not plugin.ingresses["bare"].function.is_async


def test_a_timer_is_an_ingress_named_after_its_function():
    plugin = Plugin("gen")

    @plugin.every(minutes=5, seconds=1)
    async def poll(ctx: Context, event: IngressEvent) -> None: ...

    assert plugin.ingresses["poll"].declaration.source == TimerSource(301)


@pytest.mark.parametrize(
    "period", [{}, {"seconds": 0.05}, {"seconds": -1}, {"hours": 9000}, {"seconds": float("nan")}]
)
def test_a_period_has_bounds(period):
    with pytest.raises(PluginDefinitionError, match="period"):
        Plugin("gen").every(**period)


@pytest.mark.parametrize("name", ["", "Push", "1x", "a-b", "a" * 65, "a\n"])
def test_an_ingress_name_has_a_form(name):
    with pytest.raises(PluginDefinitionError, match="expected a lower-case letter"):
        Plugin("gen").ingress(name)


def test_a_wrong_number_of_parameters_is_told_with_the_line():
    plugin = Plugin("gen")
    with pytest.raises(PluginDefinitionError, match=r"\(line \d+\) must take \(ctx\)"):
        plugin.start(lambda: None)
    with pytest.raises(PluginDefinitionError, match=r"\(line \d+\) must take \(ctx, event\)"):
        plugin.ingress("x")(lambda ctx: None)


def test_what_is_declared_twice_is_refused():
    plugin = Plugin("gen")
    plugin.start(lambda ctx: None)
    with pytest.raises(PluginDefinitionError, match="declared twice; the first is"):
        plugin.start(lambda ctx: None)
    plugin.ingress("x")(lambda ctx, event: None)
    with pytest.raises(PluginDefinitionError, match="'x' is declared twice"):
        plugin.ingress("x")(lambda ctx, event: None)


def test_an_annotation_that_is_only_for_types_is_told():
    async def handler(ctx: Context, event: "IngressEvent[OnlyForTypes]") -> None: ...

    with pytest.raises(PluginDefinitionError, match="'OnlyForTypes' cannot be read at run time"):
        Plugin("gen").ingress("x")(handler)


@pytest.mark.parametrize("annotation", [int, dict[str, Any], list[IngressEvent]])
def test_the_second_parameter_is_an_event(annotation):
    async def handler(ctx, event): ...

    handler.__annotations__["event"] = annotation
    with pytest.raises(PluginDefinitionError, match="must be IngressEvent"):
        Plugin("gen").ingress("x")(handler)


def test_a_payload_type_that_cannot_be_decoded_is_told():
    async def handler(ctx, event): ...

    handler.__annotations__["event"] = IngressEvent[dict[Push, int] | list[int] | set[int]]
    with pytest.raises(PluginDefinitionError, match="IngressEvent"):
        Plugin("gen").ingress("x")(handler)


@pytest.mark.parametrize("config", [dict, Push, "Settings", None, Config(), int])
def test_a_config_is_a_subclass_of_config(config):
    with pytest.raises(PluginDefinitionError, match="subclass of Config"):
        Plugin("gen", config=config)


@pytest.mark.parametrize("version", ["1", 1.0, None, True])
def test_a_version_is_an_integer(version):
    with pytest.raises(PluginDefinitionError, match="integer"):
        Plugin("gen", api_version=version)


# -- secrets

HIDDEN = "hunter2"


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        "{}".format,
        "{!r:>40}".format,
        "{:x}".format,
        lambda secret: f"{secret}",
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031
        lambda secret: repr([secret]),
        lambda secret: str({"secret": secret}),
        lambda secret: json.dumps({"secret": secret}, default=repr),
    ],
)
def test_a_secret_cannot_be_shown(show):
    assert HIDDEN not in show(Secret(HIDDEN))


@pytest.mark.parametrize(
    "serialise",
    [
        pickle.dumps,
        lambda secret: pickle.dumps(secret, protocol=0),
        copy.copy,
        copy.deepcopy,
        lambda secret: secret.__getstate__(),
        msgspec.json.encode,
        msgspec.msgpack.encode,
        msgspec.to_builtins,
        json.dumps,
        vars,
        hash,
    ],
)
def test_a_secret_cannot_be_serialised(serialise):
    with pytest.raises(TypeError) as caught:
        serialise(Secret(HIDDEN))
    assert HIDDEN not in str(caught.value)


def test_a_config_that_holds_a_secret_shows_none():
    class Settings(Config):
        secret: Secret

    settings = Settings(Secret(HIDDEN))
    assert HIDDEN not in repr(settings)
    with pytest.raises(TypeError):
        msgspec.json.encode(settings)


def test_a_secret_is_revealed_and_compared_on_purpose():
    assert Secret(HIDDEN).reveal() == HIDDEN
    assert Secret(HIDDEN) == Secret(HIDDEN)
    assert Secret(HIDDEN) != Secret("other")
    assert Secret(HIDDEN) != HIDDEN
