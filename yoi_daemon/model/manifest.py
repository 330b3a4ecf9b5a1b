"""What a plugin declares, as data: all that the host, its API and its tools know of it without its code."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

Verify = Literal["github"]
"""The signature schemes of webhooks."""
OnRetry = Literal["park", "hold"]
"""A retry lets later events go first, or holds the queue to keep the order."""
Overflow = Literal["reject", "wait", "drop_oldest", "coalesce"]
"""What admission does with an event that finds the queue full."""
JsonSchema = dict[str, Any]
"""A JSON Schema (2020-12). An empty one allows any value."""


class ApiSource(msgspec.Struct, frozen=True, tag_field="kind", tag="api"):
    """Events come from callers of the API."""


class HookSource(msgspec.Struct, frozen=True, tag_field="kind", tag="hook"):
    """Events come as signed webhooks too; `headers` (lower case) are handed on beside those of the scheme."""

    verify: Verify
    headers: tuple[str, ...] = ()


class TimerSource(msgspec.Struct, frozen=True, tag_field="kind", tag="timer"):
    """Events come from a timer alone, every `period_s` seconds."""

    period_s: float


Source = ApiSource | HookSource | TimerSource


class IngressDeclaration(msgspec.Struct, frozen=True, kw_only=True):
    """One ingress. `payload` is the schema of its events; `wait_s` and `coalesce_by` belong to `overflow`."""

    name: str
    source: Source = ApiSource()
    payload: JsonSchema = {}
    on_retry: OnRetry = "park"
    overflow: Overflow = "reject"
    wait_s: float = 0
    coalesce_by: tuple[str, ...] = ()


class ToolDeclaration(msgspec.Struct, frozen=True, kw_only=True):
    """One tool. `needs_service` is whether the plugin's service, where it has one, must run."""

    name: str
    description: str
    arguments: JsonSchema
    result: JsonSchema
    needs_service: bool = True


class PluginManifest(msgspec.Struct, frozen=True, kw_only=True):
    """One plugin. `settings` is the schema of `[plugins.NAME.config]`.

    `secrets` are the dotted names of the settings that name files of the secrets directory.
    """

    name: str
    api_version: int
    ingresses: Mapping[str, IngressDeclaration] = {}
    tools: Mapping[str, ToolDeclaration] = {}
    has_start: bool = False
    has_status: bool = False
    has_stop: bool = False
    settings: JsonSchema = {}
    secrets: tuple[str, ...] = ()

    @property
    def has_service(self) -> bool:
        """Returns whether there is anything with a life to manage."""
        return bool(self.ingresses) or self.has_start
