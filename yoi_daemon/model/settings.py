"""The configuration's shape. Every number carries its unit in its key; every default is stated here."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Bytes = Annotated[int, Meta(ge=1024, le=1 << 40)]
PerSecond = Annotated[float, Meta(ge=0.1, le=10_000)]
"""What is not used is kept for one second."""
Listen = str | list[str]
Grant = Literal["workers:read", "workers:command"]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The root of every table of the configuration: an unknown key is a fault.

    A table of several kinds is a union of structs; the `tag` of each is the value of the key `tag_field`.
    """

    def faults(self) -> Iterable[tuple[str, str]]:
        """Returns what types cannot express: each key that is wrong, and what was expected."""
        return ()


class ListenerSettings(Section, frozen=True):
    """The keys of both listeners. A unix socket stays plain, with a certificate too."""

    hosts: list[str] = []
    """Names that clients may call this listener, beside its addresses, such as `example.org` or `example.org:7420`."""
    origins: list[str] = []
    """Origins of web pages that may use this listener, such as `https://app.example`."""
    tls_certificate: str | None = None
    """Name of a PEM file in the secrets directory: the certificate chain, the listener's own first. Needs `tls_key`."""
    tls_key: str | None = None
    """Name of a PEM file in the secrets directory: the certificate's key, without a password."""
    behind_proxy: bool = False
    """Says that a proxy in front of this listener speaks TLS. Without it or a certificate, an address that other machines reach is refused."""

    @property
    def has_tls(self) -> bool:
        return self.tls_certificate is not None


class ApiSettings(ListenerSettings, frozen=True):
    """`[api]`: the listener of the HTTP API and of webhooks."""

    listen: Listen = "127.0.0.1:7420"
    """Address or list of addresses to listen on: `HOST:PORT`, or `unix:PATH`. Port 0 lets the kernel choose."""
    max_connections: Count = 2048
    """Maximum number of open connections."""
    max_address_connections: Count = 256
    """Maximum number of open connections from one address of another machine."""
    commands_per_s: PerSecond = 200
    """Maximum rate of commands of one token: every POST and DELETE but an ingress, which its plugin's queue bounds. Unused commands are kept for one second."""
    auth_failures_per_s: PerSecond = 5
    """Rate of wrong tokens from one address beyond which the answer is 429. Both listeners count together."""
    all_auth_failures_per_s: PerSecond = 100
    """Rate of wrong tokens from all addresses together beyond which the answer is 429."""


class ObserveSettings(ListenerSettings, frozen=True):
    """`[observe]`: the listener of the event stream, and how many events the log keeps."""

    enabled: bool | Literal["auto"] = "auto"
    """Turns the event stream on or off. `auto` turns it on where the extra is installed."""
    listen: Listen = "127.0.0.1:7421"
    """Address or list of addresses to listen on, as for `[api]`."""
    heartbeat_s: Seconds = 15
    """Maximum silence: a subscriber that got nothing for this long gets a bookmark."""
    max_subscribers: Count = 4096
    """Maximum number of subscribers."""
    max_token_subscribers: Count = 4096
    """Maximum number of subscribers of one token."""
    max_address_connections: Count = 1024
    """Maximum number of connections from one address of another machine."""
    window_events: Count = 100_000
    """Maximum number of events that the log keeps. A cursor within them resumes."""
    window_bytes: Bytes = 67_108_864
    """Maximum size of the events that the log keeps, as frames."""
    window_age_s: Annotated[float, Meta(gt=0)] = 604_800
    """Maximum age of the events that the log keeps, in time that the daemon runs."""


class StoreBounds(Section, frozen=True):
    """`[store]`: where accepted events and the log are kept."""

    low_bytes: Bytes = 67_108_864
    """Free disk space below which new events are refused with `storage_low`."""
    reserve_bytes: Bytes = 16_777_216
    """Size of a file that is released on a full disk, so that accepted events can still be acknowledged."""


class SqliteStoreSettings(StoreBounds, frozen=True, tag_field="kind", tag="sqlite"):
    """`[store]`: what the daemon keeps its state in: a file in the state directory."""


class MemoryStoreSettings(StoreBounds, frozen=True, tag_field="kind", tag="memory"):
    """`[store]`: what the daemon keeps its state in: the process's memory, which loses everything when it ends.

    The keys are accepted and have no effect.
    """


StoreSettings = SqliteStoreSettings | MemoryStoreSettings


class DaemonSettings(Section, frozen=True):
    """`[daemon]`: the process."""

    stop_timeout_s: Annotated[float, Meta(ge=1, le=3600)] = 10
    """Maximum duration of a stop, from SIGTERM to the exit."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged."""
    boot_attempts: Annotated[int, Meta(ge=0, le=100)] = 3
    """Number of starts in a row that must die on one plugin to quarantine it, or of an unknown cause to begin safe mode. 0 turns both off."""
    boot_healthy_s: Seconds = 60
    """Time after readiness from which a death no longer counts as one of the start."""


class PluginHostSettings(Section, frozen=True):
    """`[plugin_host]`: rules for all plugins."""

    require_enable: bool = False
    """Loads only plugins that have `enabled = true`."""


class PluginSettings(Section, frozen=True):
    """`[plugins.NAME]`: how the host treats one plugin; `config` is the author's own table.

    Where two keys bound each other, the smaller `…_max_s`, `queue_bytes` or `…_timeout_s` wins.
    """

    enabled: bool | None = None
    """Loads the plugin, or not. Without a value it is loaded unless `require_enable` is set."""
    critical: bool = False
    """Makes `/readyz` answer 503 while this plugin is failed."""
    isolation: Literal["inline"] = "inline"
    """Where the plugin's functions run. `inline` is in the daemon's own process."""
    grants: list[Grant] = []
    """What the plugin may do with workers. `workers:command` includes `workers:read`."""
    config: dict[str, Any] = {}
    """The author's own table. The plugin's Settings type says which keys it has."""
    # the lane
    queue_events: Count = 256
    """Maximum number of accepted events that have not ended: waiting, in hand or between retries."""
    queue_bytes: Bytes = 4_194_304
    """Maximum size of the accepted events that have not ended."""
    event_bytes: Bytes = 1_048_576
    """Maximum size of one event. The smaller of this and `queue_bytes` applies."""
    dispatch_timeout_s: Seconds = 30
    """Deadline of one attempt. A handler that passes it is cancelled."""
    dispatch_warn_s: Seconds = 5
    """Duration of an attempt from which it is reported as `plugin.slow`."""
    dispatch_grace_s: Seconds = 5
    """Time that a cancelled handler, or `start`, has to end before it is wedged."""
    # retries of an event
    attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    """Number of failed attempts after which an event becomes a dead letter."""
    retry_min_s: Seconds = 1
    """Pause before the second attempt. It doubles with each further one."""
    retry_max_s: Seconds = 30
    """Maximum pause between two attempts, unless a handler asks for more with `Retry(after_s=…)`."""
    redeliver_per_s: PerSecond = 10
    """Maximum rate of redeliveries of dead letters."""
    hooks_per_s: PerSecond = 100
    """Maximum rate of webhooks with a good signature."""
    # the service's life
    start_timeout_s: Seconds = 30
    """Deadline of the plugin's `start`."""
    start_warn_s: Seconds = 10
    """Duration of `start` from which it is reported as `plugin.slow`."""
    drain_s: Seconds = 10
    """Time for the queued events to be handled when the plugin is stopped."""
    cancel_s: Seconds = 5
    """Time for a cancelled handler to end when the plugin is stopped, and again for its resources to close."""
    stop_hook_s: Seconds = 5
    """Deadline of the plugin's `stop`."""
    status_timeout_s: Seconds = 1
    """Deadline of the plugin's `status`."""
    # tools
    tool_timeout_s: Seconds = 30
    """Deadline of one tool call."""
    tool_concurrency: Annotated[int, Meta(ge=1, le=1000)] = 4
    """Maximum number of tool calls at the same time."""
    restart: Literal["permanent", "transient", "temporary"] = "permanent"
    """When an ended service is restarted: `permanent` always, `transient` after a failure, `temporary` never."""
    restart_attempts: Annotated[int, Meta(ge=0, le=1000)] = 5
    """Maximum number of restarts within `restart_window_s`. After that the host gives up for a while."""
    restart_window_s: Seconds = 300
    """Period in which restarts are counted."""
    restart_min_s: Seconds = 1
    """Pause before the first restart. It doubles with each further one."""
    restart_max_s: Seconds = 60
    """Maximum pause before a restart."""
    restart_healthy_s: Seconds = 300
    """Time a service must run for its earlier restarts to be forgotten."""
    give_up_min_s: Seconds = 300
    """Pause after the first give-up. Then the service is tried once, and the pause doubles if that fails."""
    give_up_max_s: Seconds = 3600
    """Maximum pause after a give-up."""


class EchoProfileSettings(Section, frozen=True, tag_field="engine", tag="echo"):
    """`[profiles.NAME]`: workers that answer with their input."""


ProfileSettings = EchoProfileSettings
"""`[profiles.NAME]`: the union of all engines' settings."""


class RuntimeSettings(Section, frozen=True):
    """`[runtime]`: limits of the embedded runtime."""

    max_workers: Count = 1000
    """Maximum number of live workers."""
    max_input_bytes: Bytes = 262_144
    """Maximum size of one input."""
    inbox_inputs: Annotated[int, Meta(ge=1, le=10_000)] = 16
    """Maximum number of inputs that wait at one worker."""
    transcript_items: Count = 10_000
    """Number of items that a transcript keeps. The oldest are evicted beyond it."""
    transcript_bytes: Bytes = 16_777_216
    """Size of the items that a transcript keeps. The oldest are evicted beyond it."""
    turn_timeout_s: Seconds = 3600
    """Deadline of one turn."""
    cancel_grace_s: Seconds = 5
    """Time that a cancelled engine has to end before it is given up."""
    retained_workers: Annotated[int, Meta(ge=0, le=1_000_000)] = 1000
    """Number of ended workers that stay readable. The oldest are removed beyond it."""


class LocalCompatSettings(Section, frozen=True, tag_field="kind", tag="local_compat"):
    """`[runtimes.NAME]`: workers that other software recorded in `directory`; their runtime_id is NAME."""

    directory: str
    """Absolute path of the directory that holds a file for each worker."""
    display_name: str = ""
    """Name that is shown to people. Without one the runtime's id is shown."""

    def faults(self) -> Iterable[tuple[str, str]]:
        if not self.directory.startswith("/") or "\0" in self.directory:
            yield "directory", "expected an absolute path"


RegisteredRuntimeSettings = LocalCompatSettings
"""`[runtimes.NAME]`: the union of all kinds of runtimes beside the embedded one."""


class Settings(Section, frozen=True):
    """The whole file."""

    api: ApiSettings = ApiSettings()
    observe: ObserveSettings = ObserveSettings()
    store: StoreSettings = SqliteStoreSettings()
    daemon: DaemonSettings = DaemonSettings()
    plugin_host: PluginHostSettings = PluginHostSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    runtimes: dict[str, RegisteredRuntimeSettings] = {}
    plugins: dict[str, PluginSettings] = {}
    profiles: dict[str, ProfileSettings] = {}

    def for_plugin(self, plugin_id: str) -> PluginSettings:
        """Returns the settings of one plugin; the defaults where the file does not name it."""
        return self.plugins.get(plugin_id) or PluginSettings()

    def is_enabled(self, plugin_id: str) -> bool:
        """Returns whether a module found under this id is to be loaded."""
        enabled = self.for_plugin(plugin_id).enabled
        return not self.plugin_host.require_enable if enabled is None else enabled


KeyPath = tuple[str, ...]

RELOADABLE: frozenset[KeyPath] = frozenset(
    {("daemon", "log_level"), ("plugin_host",), ("plugins",), ("runtimes",)}
)
"""Keys and tables that a reload takes, with everything below them; all others need a restart."""


def is_reloadable(path: KeyPath) -> bool:
    """Returns whether a reload takes a change of this key or table."""
    return any(path[:length] in RELOADABLE for length in range(1, len(path) + 1))


def settings_after_reload(current: Settings, read: Settings, only: str | None = None) -> Settings:
    """Returns the settings that are in use once `read` was taken: all that is reloadable, or plugin `only`."""
    if only is None:
        return _with_reloadable(current, read, ())
    plugins = {name: one for name, one in current.plugins.items() if name != only}
    if only in read.plugins:
        plugins[only] = read.plugins[only]
    return msgspec.structs.replace(current, plugins=plugins)


def needs_restart(current: Settings, read: Settings) -> tuple[str, ...]:
    """Returns the sections in which `read` differs from `current` by a key that a reload does not take."""
    taken = settings_after_reload(current, read)
    return tuple(
        name for name in Settings.__struct_fields__ if getattr(read, name) != getattr(taken, name)
    )


_S = TypeVar("_S", bound=Section)


def _with_reloadable(current: _S, read: _S, path: KeyPath) -> _S:
    if type(current) is not type(read):  # another kind of it
        return current
    changes: dict[str, Any] = {}
    for name in current.__struct_fields__:
        before, after = getattr(current, name), getattr(read, name)
        if is_reloadable((*path, name)):
            changes[name] = after
        elif isinstance(before, Section):
            changes[name] = _with_reloadable(before, after, (*path, name))
    return msgspec.structs.replace(current, **changes)


RENAMED: dict[tuple[type[Section], str], str] = {
    (PluginSettings, "quarantine_min_s"): "give_up_min_s",
    (PluginSettings, "quarantine_max_s"): "give_up_max_s",
}
"""Keys of an earlier version, by their table and old name: refused, and the message says the new one."""
