"""A plugin's declaration as data: complete, and the same after a way through JSON or MessagePack."""

from typing import Annotated, Any

import msgspec
import pytest

from yoi_daemon.model.manifest import (
    ApiSource,
    HookSource,
    IngressDeclaration,
    PluginManifest,
    TimerSource,
    ToolDeclaration,
)
from yoi_daemon.sdk import Config, Context, IngressEvent, Plugin, PluginDefinitionError, Secret
from yoi_daemon.sdk.schemas import SECRET_FORMAT


class Push(msgspec.Struct):
    ref: str


class Upstream(msgspec.Struct):
    token: Secret
    url: str = ""


class Settings(Config):
    secret: Secret
    others: list[Secret] = msgspec.field(default_factory=list)
    upstreams: dict[str, Upstream] = msgspec.field(default_factory=dict)
    spare: Upstream | None = None
    greeting: str = "Hello"


class Opaque:
    pass


OPAQUE = Opaque()


class Holder(msgspec.Struct):
    value: Any = OPAQUE


def declared() -> Plugin[Settings]:
    plugin = Plugin("gen", config=Settings)

    @plugin.start
    async def start(ctx: Context[Settings]) -> None: ...

    @plugin.status
    def status(ctx: Context[Settings]) -> dict[str, Any]:
        return {}

    @plugin.ingress("plain", overflow="coalesce", coalesce_by="repository.id")
    async def plain(ctx: Context[Settings], event: IngressEvent[Any]) -> None: ...

    @plugin.ingress("push", verify="github", headers=("X-Thing",), on_retry="hold")
    async def push(ctx: Context[Settings], event: IngressEvent[Push]) -> None: ...

    @plugin.every(minutes=5)
    async def poll(ctx: Context[Settings], event: IngressEvent[Any]) -> None: ...

    @plugin.tool("count", needs_service=False)
    async def count(ctx: Context[Settings], arguments: Push) -> dict[str, int]:
        """Counts pushes."""
        return {}

    return plugin


def test_a_manifest_holds_every_declaration():
    manifest = declared().manifest()
    assert (manifest.name, manifest.api_version, manifest.has_service) == ("gen", 1, True)
    assert (manifest.has_start, manifest.has_status, manifest.has_stop) == (True, True, False)
    assert manifest.ingresses["plain"] == IngressDeclaration(
        name="plain",
        source=ApiSource(),
        overflow="coalesce",
        wait_s=5,
        coalesce_by=("repository", "id"),
    )
    push = manifest.ingresses["push"]
    assert push.source == HookSource("github", ("x-thing",))
    assert push.on_retry == "hold"
    assert push.payload["$defs"]["Push"]["required"] == ["ref"]
    assert manifest.ingresses["poll"].source == TimerSource(300)
    tool = manifest.tools["count"]
    assert tool == ToolDeclaration(
        name="count",
        description="Counts pushes.",
        arguments=msgspec.json.schema(Push),
        result=msgspec.json.schema(dict[str, int]),
        needs_service=False,
    )


def test_a_manifest_knows_the_settings_and_which_of_them_are_secrets():
    manifest = declared().manifest()
    assert manifest.secrets == ("secret", "others", "upstreams.token", "spare.token")
    properties = manifest.settings["$defs"]["Settings"]["properties"]
    assert properties["secret"]["format"] == SECRET_FORMAT
    assert properties["greeting"] == {"type": "string", "default": "Hello"}


@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack], ids=["json", "msgpack"])
def test_a_manifest_is_the_same_after_encoding_and_decoding(codec):
    manifest = declared().manifest()
    assert codec.decode(codec.encode(manifest), type=PluginManifest) == manifest


def test_a_plugin_with_tools_alone_has_no_service():
    plugin = Plugin("gen")

    @plugin.tool("count")
    async def count(ctx: Context, arguments: Push) -> int:
        return 0

    assert not plugin.manifest().has_service


@pytest.mark.parametrize("kind", [Opaque, Holder, dict[str, Holder]])
def test_a_payload_type_without_a_schema_allows_any_value(kind):
    """What fits it the type's own decoder says."""
    plugin = Plugin("gen")

    async def handler(ctx, event): ...

    handler.__annotations__["event"] = IngressEvent[kind]
    plugin.ingress("x")(handler)
    schema = plugin.manifest().ingresses["x"].payload
    assert "type" not in schema
    assert "$ref" not in schema


def test_settings_whose_default_is_not_json_have_a_schema_that_allows_any_value():
    class Odd(Config):
        secret: Secret = Secret("for development")

    manifest = Plugin("gen", config=Odd).manifest()
    assert (manifest.settings, manifest.secrets) == ({}, ("secret",))


def test_a_tool_whose_schema_is_not_json_is_refused_with_its_line():
    class Arguments(msgspec.Struct):
        number: Annotated[int, msgspec.Meta(extra_json_schema={"example": OPAQUE})]

    async def count(ctx, arguments) -> int:
        return 0

    count.__annotations__["arguments"] = Arguments

    with pytest.raises(PluginDefinitionError, match=r"count \(line \d+\): no JSON Schema"):
        Plugin("gen").tool("count")(count)
