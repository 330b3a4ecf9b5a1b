"""The parts of the daemon's answers that tables show. Loose: other versions say more, or less."""

from typing import Any, TypeVar

import msgspec

from yoi_daemon.model.errors import Unreachable

T = TypeVar("T")

Answer = dict[str, Any]
"""An answer as it came, for `--json`."""


class View(msgspec.Struct, kw_only=True):
    """The root of the views: every field but an id has a default, unknown ones are passed over."""


class ReasonView(View):
    """Why something is in its state."""

    code: str = ""
    message: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.code, self.message)))


class DiagnosticView(View):
    """One thing an operator should know."""

    code: str = ""
    severity: str = ""
    message: str = ""
    where: str | None = None


class LastErrorView(View):
    """A plugin's latest failure; `where` is the innermost file and line of the plugin itself."""

    code: str = ""
    message: str = ""
    time: str = ""
    where: str | None = None
    event_id: str | None = None

    def __str__(self) -> str:
        # Some messages name the place themselves.
        is_told = self.where is None or self.where in self.message
        place = "" if is_told else f", at {self.where}"
        return f"{ReasonView(code=self.code, message=self.message)}{place}"


class DispatchTimesView(View):
    """How long handlers took."""

    count: int = 0
    p50_ms: float = 0
    p99_ms: float = 0
    max_ms: float = 0


class IngressView(View):
    """One ingress of a plugin."""

    name: str = "?"
    verify: str | None = None
    every_s: float | None = None


class PluginView(View):
    """A plugin's record: a row of `plugin list`, and the page of `plugin show`."""

    plugin_id: str
    state: str = "?"
    since: str = "-"
    reason: ReasonView | None = None
    restarts: int = 0
    retry_at: str | None = None
    queue_depth: int = 0
    queue_capacity: int | None = None
    queue_bytes: int | None = None
    queue_bytes_capacity: int | None = None
    oldest_waiting_s: float | None = None
    critical: bool = False
    isolation: str = "?"
    last_error: LastErrorView | None = None
    counters: dict[str, int] = {}
    dispatch: DispatchTimesView = msgspec.field(default_factory=DispatchTimesView)
    ingresses: list[IngressView] = []
    tools: list[str] = []
    detail: Any = None

    @property
    def why(self) -> str | None:
        """Returns why it is in its state, where the state itself does not say enough."""
        if self.reason is None or self.reason.code in {self.state, "loaded"}:
            return None
        return str(self.reason)

    @property
    def queue(self) -> str:
        """Depth and, where it is told, capacity."""
        if self.queue_capacity is None:
            return str(self.queue_depth)
        return f"{self.queue_depth}/{self.queue_capacity}"


class WorkerView(View):
    """A row of `worker list`."""

    runtime_id: str
    worker_id: str
    implementation_kind: str = "?"
    label: str = ""
    profile: str = ""
    state: str = "?"
    generation: int = 0
    created_at: str = "-"
    reason: ReasonView | None = None

    @property
    def address(self) -> str:
        """`runtime_id/worker_id`, as the commands take it."""
        return f"{self.runtime_id}/{self.worker_id}"


class RuntimeView(View):
    """A line of `status`, a row of `runtime list`, and the page of `runtime show`."""

    runtime_id: str
    display_name: str = ""
    capabilities: dict[str, bool] = {}
    implementation_kind: str = "?"
    status: str = "?"
    diagnostics: list[DiagnosticView] = []


class ItemView(View):
    """One item of a transcript."""

    item_id: str = ""
    role: str = "?"
    text: str = ""
    time: str = ""
    truncated: bool = False
    full_bytes: int | None = None


class TranscriptView(View):
    """A page of a transcript."""

    items: list[ItemView] = []
    before: str | None = None
    after: str | None = None
    let_go: int = 0


class PluginsView(View):
    """The answer of `GET /api/plugins`."""

    items: list[PluginView]
    next: str | None = None
    diagnostics: list[DiagnosticView] = []


class CommandedView(View):
    """The answer to a command to a plugin's service."""

    plugin: PluginView
    cursor: str | None = None


class ReloadedView(View):
    """The answer to a reload."""

    plugins: list[str] = []
    runtimes: list[str] = []
    needs_restart: list[str] = []


class AttemptView(View):
    """What one attempt at an event came to."""

    attempt: int = 0
    outcome: str = "?"
    started_at: str = "-"
    duration_ms: float | None = None
    code: str | None = None
    message: str | None = None
    where: str | None = None

    @property
    def why(self) -> str | None:
        """Message, and the code where it says more than the outcome."""
        code = "" if self.code is None or self.code == self.outcome else self.code
        return str(ReasonView(code=code, message=self.message or "")) or None


class DeadLetterView(View):
    """A row of `dead list`, and the page of `dead show`."""

    event_id: str
    ingress: str = "?"
    source: str = "?"
    died_at: str = "-"
    attempts: list[AttemptView] = []
    payload_base64: str = ""


class DeadLettersView(View):
    """The answer of `GET /api/plugins/…/dead-letters`."""

    items: list[DeadLetterView]
    diagnostics: list[DiagnosticView] = []


class ToolView(View):
    """A row of `tool --list`; `arguments` is a JSON Schema."""

    plugin_id: str
    tool: str
    description: str = ""
    arguments: dict[str, Any] = {}


class ToolsView(View):
    """The answer of `GET /api/tools`."""

    items: list[ToolView]


class ToolAnswerView(View):
    """What a tool returned, as the JSON it was."""

    result: msgspec.Raw


class BatchAnswerView(View):
    """The line that answers one of a batch."""

    status: int
    event_id: str | None = None
    code: str = ""
    detail: str = ""


class WorkersView(View):
    """The answer of `GET /api/workers`."""

    items: list[WorkerView]
    next: str | None = None
    diagnostics: list[DiagnosticView] = []


class RuntimesView(View):
    """The answer of `GET /api/runtimes`."""

    items: list[RuntimeView]
    diagnostics: list[DiagnosticView] = []


class TokenView(View):
    """A token, without its secret."""

    token_id: str
    label: str = ""
    scopes: list[str] = []
    created_at: str = "-"
    expires_at: str | None = None
    expired: bool = False
    last_used_at: str | None = None


class TokensView(View):
    """The answer of `GET /api/tokens`."""

    items: list[TokenView]


class CreatedTokenView(View):
    """The answer of `POST /api/tokens`, and without a secret of `DELETE /api/tokens/{token_id}`."""

    token: TokenView
    secret: str | None = None


class StoreView(View):
    """Where accepted events are kept."""

    kind: str = "?"
    durable: bool = False
    note: str = ""
    low: bool = False
    free_bytes: int | None = None


class LogView(View):
    """The log's window."""

    epoch: str = ""
    events: int | None = None
    bytes: int | None = None


class ObserveView(View):
    """The stream's listener."""

    enabled: bool = False
    port: int | None = None
    subscribers: int = 0


class LastBlockView(View):
    """The latest time the event loop stood still."""

    plugin_id: str | None = None
    where: str | None = None
    blocked_s: float = 0


class LoopView(View):
    """How often the event loop stood still."""

    count: int = 0
    longest_s: float = 0
    last: LastBlockView | None = None
    last_ago_s: float | None = None


class StatusView(View):
    """The answer of `GET /api/status`."""

    version: str = "?"
    pid: int | None = None
    ready: bool = False
    not_ready: list[str] = []
    uptime_s: float = 0
    store: StoreView = msgspec.field(default_factory=StoreView)
    log: LogView = msgspec.field(default_factory=LogView)
    observe: ObserveView = msgspec.field(default_factory=ObserveView)
    loop: LoopView = msgspec.field(default_factory=LoopView)
    plugins: list[PluginView] = []
    runtimes: list[RuntimeView] = []
    diagnostics: list[DiagnosticView] = []


def view(answer: Any, kind: type[T]) -> T:
    """`answer` as `kind`. Raises `Unreachable` where even the loose shape is not met."""
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise Unreachable(
            f"the daemon's answer has another shape than this version reads ({error}); "
            "use the yoi-daemon command of the daemon's own version, or --json"
        ) from error
