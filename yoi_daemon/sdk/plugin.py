"""How an author declares a plugin: one object, and decorators that note functions on it."""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

import msgspec

from yoi_daemon.model.manifest import (
    ApiSource,
    HookSource,
    IngressDeclaration,
    OnRetry,
    Overflow,
    PluginManifest,
    Source,
    TimerSource,
    ToolDeclaration,
    Verify,
)
from yoi_daemon.sdk.config import Config
from yoi_daemon.sdk.context import Context, IngressEvent
from yoi_daemon.sdk.schemas import loose_schema_of, schema_of, secret_fields

API_VERSION = 1
"""The version of this interface. A plugin that asks for a later one is refused, and says so."""

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    C = TypeVarWithDefault("C", bound=Config, default=Config)
else:
    C = TypeVar("C", bound=Config)

A = TypeVar("A")
Q = TypeVar("Q")
R = TypeVar("R")
Done = TypeVar("Done", bound="Awaitable[None] | None")
Answer = TypeVar("Answer", bound="Awaitable[Mapping[str, Any]] | Mapping[str, Any]")

_INGRESS_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class PluginDefinitionError(TypeError):
    """A declaration that cannot work; the message names the function, its line and what is expected."""


class Function(msgspec.Struct, frozen=True):
    """A function an author declared; a plain `def` is run in a thread."""

    call: Callable[..., Any]
    is_async: bool


class IngressSpec(msgspec.Struct, frozen=True):
    """One declared ingress, its handler, and the decoder of its payloads."""

    declaration: IngressDeclaration
    function: Function
    decoder: msgspec.json.Decoder[Any]


class ToolSpec(msgspec.Struct, frozen=True):
    """One declared tool, its function, and the decoder of its arguments."""

    declaration: ToolDeclaration
    function: Function
    decoder: msgspec.json.Decoder[Any]


class Plugin(Generic[C]):
    """A plugin's declarations. Making one has no effect but these notes."""

    @overload
    def __init__(self: "Plugin[Config]", name: str, *, api_version: int = API_VERSION) -> None: ...
    @overload
    def __init__(self, name: str, *, config: type[C], api_version: int = API_VERSION) -> None: ...
    def __init__(self, name: str, *, config: Any = Config, api_version: int = API_VERSION) -> None:
        if not _is_config(config):
            raise PluginDefinitionError(f"Plugin({name!r}): config must be a subclass of Config")
        if type(api_version) is not int:
            raise PluginDefinitionError(f"Plugin({name!r}): api_version must be an integer")
        self.name = name
        self.config_type: type[C] = config
        self.api_version = api_version
        self.ingresses: dict[str, IngressSpec] = {}
        self.tools: dict[str, ToolSpec] = {}
        self.on_start: Function | None = None
        self.on_status: Function | None = None
        self.on_stop: Function | None = None

    def manifest(self) -> PluginManifest:
        """Returns what was declared, as data."""
        return PluginManifest(
            name=self.name,
            api_version=self.api_version,
            ingresses={name: spec.declaration for name, spec in self.ingresses.items()},
            tools={name: spec.declaration for name, spec in self.tools.items()},
            has_start=self.on_start is not None,
            has_status=self.on_status is not None,
            has_stop=self.on_stop is not None,
            settings=loose_schema_of(self.config_type),
            secrets=secret_fields(self.config_type),
        )

    def start(self, function: Callable[[Context[C]], Done], /) -> Callable[[Context[C]], Done]:
        """Initialise and return. What was entered with `ctx.enter` is closed by the host."""
        self.on_start = _function(function, "(ctx)", 1, self.on_start)
        return function

    def stop(self, function: Callable[[Context[C]], Done], /) -> Callable[[Context[C]], Done]:
        """Called once after the last handler, before resources are closed."""
        self.on_stop = _function(function, "(ctx)", 1, self.on_stop)
        return function

    def status(self, function: Callable[[Context[C]], Answer], /) -> Callable[[Context[C]], Answer]:
        """Answers with a small JSON object, shown under `detail`; asked with a deadline."""
        self.on_status = _function(function, "(ctx)", 1, self.on_status)
        return function

    def ingress(
        self,
        name: str,
        *,
        verify: Verify | None = None,
        headers: tuple[str, ...] = (),
        on_retry: OnRetry = "park",
        overflow: Overflow = "reject",
        wait_s: float = 5,
        coalesce_by: str = "",
    ) -> Callable[
        [Callable[[Context[C], IngressEvent[Q]], Done]],
        Callable[[Context[C], IngressEvent[Q]], Done],
    ]:
        """Handles the events of one ingress: serially, with a deadline, retried on `Retry`, crash and timeout.

        `verify="github"` makes it a webhook too, at `/hooks/<plugin>/<name>`: the signature is
        checked with the Settings field `secret` before the event is accepted. `headers` names the
        request headers to hand on. `on_retry` says whether a retry lets later events by (`park`)
        or keeps their order (`hold`).

        `overflow` says what a full queue does to a new event: it is refused (`reject`), waits up to
        `wait_s` seconds for room (`wait`), takes the place of this ingress's oldest waiting event
        (`drop_oldest`), or that of the waiting one with the same value at the dotted path `coalesce_by`
        in its payload (`coalesce`).
        """
        if (overflow == "coalesce") != bool(coalesce_by):
            raise PluginDefinitionError(
                f'ingress {name!r}: overflow="coalesce" and coalesce_by="a.path" go together'
            )
        if not 0 < wait_s <= 30:
            raise PluginDefinitionError(f"ingress {name!r}: wait_s is up to 30 seconds")
        if not _INGRESS_NAME.fullmatch(name):
            raise PluginDefinitionError(
                f"ingress {name!r}: expected a lower-case letter, then up to 63 of a-z, 0-9 and _"
            )

        lower = tuple(header.lower() for header in headers)

        def declare(
            function: Callable[[Context[C], IngressEvent[Q]], Done],
        ) -> Callable[[Context[C], IngressEvent[Q]], Done]:
            self._add(
                name,
                function,
                ApiSource() if verify is None else HookSource(verify, lower),
                on_retry=on_retry,
                overflow=overflow,
                wait_s=wait_s,
                coalesce_by=tuple(filter(None, coalesce_by.split("."))),
            )
            return function

        return declare

    def tool(
        self, name: str, *, needs_service: bool | None = None
    ) -> Callable[[Callable[[Context[C], A], R]], Callable[[Context[C], A], R]]:
        """Answers a request at once, beside the queue, with a deadline of its own.

        The function takes `(ctx, arguments)`; both the arguments' and the result's annotations are
        msgspec types, from which the schemas at `/api/tools` are made. Its docstring is the
        description. `needs_service` is whether the service must run: by default where there is one.
        """
        if not _INGRESS_NAME.fullmatch(name):
            raise PluginDefinitionError(
                f"tool {name!r}: expected a lower-case letter, then up to 63 of a-z, 0-9 and _"
            )

        def declare(function: Callable[[Context[C], A], R]) -> Callable[[Context[C], A], R]:
            if name in self.tools:
                raise PluginDefinitionError(f"{_place(function)}: tool {name!r} is declared twice")
            self.tools[name] = _tool(name, function, needs_service)
            return function

        return declare

    def every(
        self, *, seconds: float = 0, minutes: float = 0, hours: float = 0
    ) -> Callable[
        [Callable[[Context[C], IngressEvent[Q]], Done]],
        Callable[[Context[C], IngressEvent[Q]], Done],
    ]:
        """Handles a timer's events, through the same queue; a tick is left out while one still waits."""
        period_s = seconds + 60 * minutes + 3600 * hours
        if not 0.1 <= period_s <= 31_536_000:
            raise PluginDefinitionError("every: expected a period of 0.1 seconds to a year")

        def declare(
            function: Callable[[Context[C], IngressEvent[Q]], Done],
        ) -> Callable[[Context[C], IngressEvent[Q]], Done]:
            self._add(function.__name__, function, TimerSource(period_s))
            return function

        return declare

    def _add(self, name: str, function: Callable[..., Any], source: Source, **options: Any) -> None:
        if name in self.ingresses:
            raise PluginDefinitionError(f"{_place(function)}: ingress {name!r} is declared twice")
        payload = _payload_type(function)
        try:
            decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(payload)
        except TypeError as error:
            raise PluginDefinitionError(
                f"{_place(function)}: IngressEvent[{payload!r}]: {error}"
            ) from error
        declaration = IngressDeclaration(
            name=name, source=source, payload=loose_schema_of(payload), **options
        )
        self.ingresses[name] = IngressSpec(
            declaration, _function(function, "(ctx, event)", 2), decoder
        )


def _tool(name: str, call: Callable[..., Any], needs_service: bool | None) -> ToolSpec:
    function = _function(call, "(ctx, arguments)", 2)
    hints = _hints(call)
    parameter = list(inspect.signature(call).parameters)[1]
    if parameter not in hints or "return" not in hints:
        raise PluginDefinitionError(
            f"{_place(call)}: annotate the arguments and the result with msgspec types"
        )
    arguments = hints[parameter]
    try:
        decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(arguments)
        declaration = ToolDeclaration(
            name=name,
            description=inspect.getdoc(call) or "",
            arguments=schema_of(arguments),
            result=schema_of(hints["return"]),
            needs_service=True if needs_service is None else needs_service,
        )
    except (TypeError, ValueError) as error:
        raise PluginDefinitionError(f"{_place(call)}: no JSON Schema: {error}") from error
    return ToolSpec(declaration, function, decoder)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except NameError as error:
        raise PluginDefinitionError(
            f"{_place(function)}: the annotation {error.name!r} cannot be read at run time; "
            "import or define it at the module's top, not under TYPE_CHECKING"
        ) from error


def _function(
    call: Callable[..., Any], form: str, arity: int, earlier: Function | None = None
) -> Function:
    if earlier is not None:
        raise PluginDefinitionError(
            f"{_place(call)}: declared twice; the first is {_place(earlier.call)}"
        )
    if len(inspect.signature(call).parameters) != arity:
        raise PluginDefinitionError(f"{_place(call)} must take {form}")
    return Function(call, inspect.iscoroutinefunction(call))


def _is_config(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Config)


def _payload_type(function: Callable[..., Any]) -> Any:
    names = list(inspect.signature(function).parameters)
    hints = _hints(function)
    kind = hints.get(names[1], IngressEvent) if len(names) == 2 else IngressEvent
    if kind is IngressEvent or kind is Any:
        return Any
    if get_origin(kind) is IngressEvent:
        return get_args(kind)[0]
    raise PluginDefinitionError(
        f"{_place(function)}: the second parameter must be IngressEvent or IngressEvent[T]"
    )


def _place(function: Callable[..., Any]) -> str:
    code = getattr(function, "__code__", None)
    name = getattr(function, "__qualname__", repr(function))
    return f"{name} (line {code.co_firstlineno})" if code is not None else name
