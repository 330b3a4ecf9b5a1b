"""The daemon's REST API from outside: one connection pool, one edge where errors are translated."""

import math
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import httpx2
import msgspec
import trio

from yoi_daemon.client.locate import Location, what_blocks
from yoi_daemon.client.refusals import refused_from_problem
from yoi_daemon.client.transport import client_context, distrust
from yoi_daemon.model.errors import Refused, Unreachable, YoiError

T = TypeVar("T")

Method = Literal["GET", "POST", "DELETE"]
Parameters = Mapping[str, str | int | None]

DEFAULT_DEADLINE_S = 30.0
"""One request, from the connection to the last byte of the answer. The daemon's own deadlines for
a route are at most this, so that its typed answer comes first."""

CONNECT_DEADLINE_S = 5.0
"""A daemon that is there accepts at once: the kernel does it for it."""

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""No answer of the daemon comes near this; what does is not a daemon, and memory is finite."""


class NoAnswerInTime(Unreachable):
    """The connection stands and the answer did not come within the deadline; the request may go on."""


class DaemonClient:
    """A daemon's API. Open one with `open_daemon_client`; tasks may share it.

    Every method raises `Refused` with the daemon's own code, detail and fields, and `Unreachable`
    when there is no daemon to answer: no connection, no answer in time, or an answer of something
    else. A request that timed out may have been carried out; give an idempotency key to try again
    safely. Cancellation abandons the request, which likewise may have been carried out.
    """

    def __init__(
        self,
        location: Location,
        http: httpx2.AsyncClient,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
    ) -> None:
        self._location = location
        self._http = http
        self._deadline_s = deadline_s

    @property
    def location(self) -> Location:
        """Returns the daemon this talks to."""
        return self._location

    async def get(self, path: str, into: type[T], *, params: Parameters | None = None) -> T:
        """Returns the answer to `GET path`, decoded as `into`. Parameters that are None are left out."""
        return await self.request("GET", path, into, params=params)

    async def post(
        self,
        path: str,
        into: type[T],
        *,
        body: Any = None,
        content: bytes | None = None,
        idempotency_key: str | None = None,
    ) -> T:
        """Returns the answer to `POST path`. `body` is encoded as JSON; `content` is JSON already.

        `idempotency_key` makes a repetition of the same request give the first one's answer.
        """
        headers = {"content-type": "application/json"}
        if idempotency_key is not None:
            headers["idempotency-key"] = idempotency_key
        encoded = content if content is not None else msgspec.json.encode(body)
        return await self.request("POST", path, into, content=encoded, headers=headers)

    async def post_lines(self, path: str, content: bytes, on_line: Callable[[bytes], None]) -> None:
        """Posts NDJSON and gives each line of the answer to `on_line` when it has arrived.

        The deadline is for each wait, not for the whole: it begins anew with whatever arrives.
        `on_line` is not to raise: an answer that is read half cannot be closed in order.
        """
        headers = {"content-type": "application/x-ndjson", "accept": "*/*"}
        rest = b""
        with self._translate("POST", path) as scope:
            async with self._http.stream(
                "POST", path, content=content, headers=headers
            ) as response:
                if not response.is_success:
                    answer = await self._read(response, f"POST {path}")
                    raise self._refusal("POST", path, response.status_code, answer)
                async for chunk in response.aiter_raw():
                    scope.deadline = trio.current_time() + self._deadline_s
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        on_line(line)
                    self._bound(len(rest), f"POST {path}")
        if rest:
            on_line(rest)

    async def request(
        self,
        method: Method,
        path: str,
        into: type[T],
        *,
        params: Parameters | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """Any request; `get` and `post` are the usual ones."""
        query = {name: value for name, value in (params or {}).items() if value is not None}
        with self._translate(method, path):
            async with self._http.stream(
                method, path, params=query or None, content=content, headers=headers
            ) as response:
                status = response.status_code
                answer = await self._read(response, f"{method} {path}")
        if not 200 <= status < 300:
            raise self._refusal(method, path, status, answer)
        try:
            return msgspec.json.decode(answer, type=into)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._unreachable(
                f"answers {method} {path} in a shape this version does not understand"
            ) from error

    async def _read(self, response: httpx2.Response, what: str) -> bytes:
        answer = bytearray()
        async for chunk in response.aiter_raw():
            answer += chunk
            self._bound(len(answer), what)
        return bytes(answer)

    def _bound(self, count: int, what: str) -> None:
        if count > MAX_ANSWER_BYTES:
            raise self._unreachable(f"sent more than {MAX_ANSWER_BYTES} bytes for {what}")

    def _refusal(self, method: Method, path: str, status: int, answer: bytes) -> YoiError:
        return refused_from_problem(status, answer) or self._unreachable(
            f"answers {method} {path} with HTTP {status} and no reason a Yoi Daemon would give"
        )

    @contextmanager
    def _translate(self, method: Method, path: str) -> Generator[trio.CancelScope]:
        """The one edge where what can happen to a request becomes an error of ours."""
        try:
            with trio.fail_after(self._deadline_s) as scope:
                yield scope
        except (trio.TooSlowError, httpx2.TimeoutException) as error:
            why = what_blocks(self._location) or (
                "see whether the daemon is overloaded or stopped (SIGSTOP)"
            )
            raise NoAnswerInTime(
                f"{self._place} did not answer {method} {path} in time; {why}"
            ) from error
        except httpx2.ConnectError as error:
            if (untrusted := distrust(error)) is not None:
                raise Unreachable(f"{self._place} cannot be talked to: {untrusted}") from error
            raise Unreachable(
                f"nothing listens at {self._place}; start the daemon with 'yoi-daemon run', "
                "or check the address"
            ) from error
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise Unreachable(
                f"the connection to {self._place} broke during {method} {path}: "
                f"{type(error).__name__}; see whether the daemon is still running, and try again"
            ) from error

    @property
    def _place(self) -> str:
        return f"{self._location.api} (from {self._location.source})"

    def _unreachable(self, what: str) -> Unreachable:
        return Unreachable(f"{self._place} {what}; check that the address is a Yoi Daemon's API")


@asynccontextmanager
async def open_daemon_client(
    location: Location,
    *,
    deadline_s: float = DEFAULT_DEADLINE_S,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> AsyncGenerator[DaemonClient]:
    """A client for the daemon at `location`; its connections end with the block.

    Redirects are not followed and the environment's proxies are not used: the token goes to the
    address it was given for and nowhere else. `deadline_s` is for each whole request, in seconds.
    """
    if not (math.isfinite(deadline_s) and deadline_s > 0):
        raise ValueError("deadline_s must be a positive number of seconds")
    base, uds = _address(location.api)
    async with httpx2.AsyncClient(
        base_url=base,
        transport=transport
        or httpx2.AsyncHTTPTransport(
            # Loading the system's certificates costs more than the request; plain HTTP needs none.
            verify=client_context(location) if base.startswith("https:") else False,
            uds=uds,
            trust_env=False,
        ),
        headers={
            "authorization": f"Bearer {location.token}",
            "accept": "application/json, application/problem+json",
            # Answers are small, and what is not compressed cannot expand without limit.
            "accept-encoding": "identity",
            "user-agent": "yoi-daemon",
        },
        # The whole request has one deadline, above; this only shortens the wait for a connection.
        timeout=httpx2.Timeout(None, connect=CONNECT_DEADLINE_S),
        follow_redirects=False,
        trust_env=False,
    ) as http:
        yield DaemonClient(location, http, deadline_s=deadline_s)


def path_of(*segments: str) -> str:
    """`/api/` and the segments, each quoted, so that no name can lead to another route.

    Raises `Refused` (`invalid_request`) for a segment that a URL cannot carry as a name.
    """
    for segment in segments:
        if segment in {"", ".", ".."}:
            raise Refused(
                "invalid_request", f"{segment!r} is not a name; give the id as it is listed"
            )
    return "/api/" + "/".join(quote(segment, safe="") for segment in segments)


def _address(api: str) -> tuple[str, str | None]:
    """Returns the base URL and, for `unix:PATH`, the socket. The host of a socket is called localhost."""
    if api.startswith("unix:"):
        return "http://localhost", api.removeprefix("unix:")
    return api, None
