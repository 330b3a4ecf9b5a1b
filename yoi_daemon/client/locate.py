"""Where a running daemon answers, and the token it wants.

A daemon is found by the `daemon.json` it keeps while it runs: in the directory of `--state`, in
`$STATE_DIRECTORY`, in `/run/yoi-daemon`, in the XDG state directory, in this order. The first file
there is decides; a stale one is an error rather than a reason to talk to somebody else's daemon.
Or the caller names an address and a token file, and nothing is looked for.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from yoi_daemon.model.blocking import Blocked
from yoi_daemon.model.directories import BLOCKED_FILE, DAEMON_FILE, PROGRAM, find_directories
from yoi_daemon.model.errors import ConfigurationError, NotAllowed, Unreachable

RUNTIME_DIRECTORY = Path("/run") / PROGRAM
"""systemd's `RuntimeDirectory=`: there while the service runs, gone with it."""

SYSTEM_STATE_DIRECTORY = Path("/var/lib") / PROGRAM
"""systemd's `StateDirectory=`: where the service found by `/run` keeps its token."""

_TOKEN_FILE = "admin.token"
_MAX_FILE_BYTES = 65_536
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Location(msgspec.Struct, frozen=True, kw_only=True):
    """One daemon: what to connect to, and what to say to be let in.

    `api` and `observe` are `http(s)://HOST:PORT`, `ws(s)://HOST:PORT`, or `unix:PATH`; `observe` is
    None when the daemon offers no stream or nothing local says where. `token` is never shown.
    `source` says how it was found, for error messages.
    """

    api: str
    token: str
    source: str
    observe: str | None = None
    epoch: str | None = None
    version: str | None = None
    certificates: str = ""
    """The daemon's own, PEM, where its file told them; then no other is trusted."""
    ca_file: str | None = None
    """Of PEM certificates to trust instead of the system's."""

    def __repr__(self) -> str:
        return f"Location(api={self.api!r}, observe={self.observe!r}, source={self.source!r})"


class DaemonFile(msgspec.Struct, frozen=True, kw_only=True):
    """`daemon.json`; fields this version does not know are passed over."""

    pid: int
    api: str | list[str]
    observe: str | list[str] | None = None
    epoch: str | None = None
    version: str | None = None
    certificates: str = ""


def locate(
    state: str | None,
    environ: Mapping[str, str],
    *,
    is_alive: Callable[[int], bool] | None = None,
    runtime_directory: Path = RUNTIME_DIRECTORY,
    system_state_directory: Path = SYSTEM_STATE_DIRECTORY,
) -> Location:
    """Returns the daemon that runs on this machine, by its `daemon.json` and `admin.token`.

    `state` is the value of `--state`; then no other place is looked at. `is_alive` tells whether a
    process id is in use. Raises `Unreachable` when there is no daemon or its file is stale,
    `NotAllowed` when a file may not be read.
    """
    searched = _places(state, environ, runtime_directory)
    for place in searched:
        file = place / DAEMON_FILE
        content = _read(file)
        if content is None:
            continue
        daemon = _decode(file, content)
        if not (is_alive or process_is_alive)(daemon.pid):
            raise Unreachable(
                f"{file} names process {daemon.pid}, which is gone: the daemon did not end "
                f"cleanly; start it again with '{PROGRAM} run'"
            )
        tokens = [place / _TOKEN_FILE]
        if place == runtime_directory:
            tokens.append(system_state_directory / _TOKEN_FILE)
        return Location(
            api=_reachable(_first(daemon.api) or ""),
            observe=_reachable(observe) if (observe := _first(daemon.observe)) else None,
            token=_first_token(tokens),
            source=str(file),
            epoch=daemon.epoch,
            version=daemon.version,
            certificates=daemon.certificates,
        )
    raise Unreachable(
        f"no daemon is running: no {DAEMON_FILE} in {', '.join(map(str, searched))}; start one "
        f"with '{PROGRAM} run', or name one with --state DIR or with --url and --token-file"
    )


def what_blocks(location: Location) -> str | None:
    """Returns what holds the event loop of a daemon that does not answer, as it has written down; else None."""
    if not location.source.endswith(DAEMON_FILE):
        return None
    try:
        content = Path(location.source).with_name(BLOCKED_FILE).read_bytes()
        blocked = msgspec.json.decode(content, type=Blocked)
    except (OSError, ValueError):
        return None
    return f"its event loop has stood still since {blocked.since}, held by {blocked.who}"


def locate_by_url(url: str, token_file: str, ca_file: str | None = None) -> Location:
    """Returns the daemon at `url` (`http://HOST:PORT`, `https://…` or `unix:PATH`), with the file's token.

    Raises `ValueError` for an address of another form, `NotAllowed` when the token cannot be read.
    """
    check_url(url)
    token = _first_token([Path(token_file)])
    return Location(api=url.rstrip("/"), token=token, source="--url", ca_file=ca_file)


def check_url(url: str) -> None:
    """Raises `ValueError`, with a sentence, unless `url` can be the address of an API."""
    if url.startswith("unix:"):
        if len(url) == len("unix:"):
            raise ValueError(
                "unix: wants the path of a socket, such as unix:/run/yoi-daemon/api.sock"
            )
        return
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("the address is http://HOST:PORT, https://HOST:PORT or unix:PATH")
    if parts.path not in {"", "/"} or parts.query or parts.fragment or parts.username is not None:
        raise ValueError("the address ends after the port: no path, query or user name")
    _ = parts.port  # raises ValueError itself when it is no number


def process_is_alive(pid: int) -> bool:
    """Returns whether a process with this id runs; another user's counts, a zombie does not."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's, and there
    try:
        # Where nothing reaps orphans, as in many containers, a killed daemon stays as a zombie.
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return True
    # `pid (name) state …`, and the name may hold anything, parentheses too; see proc(5).
    return status.rpartition(b")")[2].split()[:1] != [b"Z"]


def _places(state: str | None, environ: Mapping[str, str], runtime: Path) -> list[Path]:
    if state:
        return [_state_directory(state, environ)]
    places: list[Path] = []
    if environ.get("STATE_DIRECTORY"):
        places.append(_state_directory(None, environ))
    places.append(runtime)
    without_systemd = {k: v for k, v in environ.items() if k != "STATE_DIRECTORY"}
    # Without HOME, as in a system account, there is no XDG directory to look in.
    with suppress(ConfigurationError):
        places.append(_state_directory(None, without_systemd))
    return places


def _state_directory(state: str | None, environ: Mapping[str, str]) -> Path:
    # The configuration is named because only its absence could fail, and nothing is read of it.
    return find_directories("/", state, environ).state


def _read(file: Path) -> bytes | None:
    try:
        with file.open("rb") as opened:
            return opened.read(_MAX_FILE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise NotAllowed(
            f"{file} may not be read; run this as the user the daemon runs as, or as root"
        ) from error
    except OSError as error:
        raise Unreachable(f"{file} cannot be read: {error.strerror}") from error


def _decode(file: Path, content: bytes) -> DaemonFile:
    try:
        daemon = msgspec.json.decode(content, type=DaemonFile)
        if not _first(daemon.api):
            raise ValueError("no address")
    except ValueError as error:
        raise Unreachable(
            f"{file} was not written by a daemon this version understands; restart the daemon, "
            "or name it with --url URL and --token-file FILE"
        ) from error
    return daemon


def _first(addresses: str | list[str] | None) -> str | None:
    if isinstance(addresses, list):
        return addresses[0] if addresses else None
    return addresses or None


def _reachable(url: str) -> str:
    """A listener on every address is reached by loopback, whose name the daemon always accepts."""
    if url.startswith("unix:"):
        return url
    parts = urlsplit(url)
    loopback = _ANY_ADDRESS.get(parts.hostname or "")
    if loopback is None:
        return url.rstrip("/")
    host = f"[{loopback}]" if ":" in loopback else loopback
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


def _first_token(files: list[Path]) -> str:
    for file in files:
        content = _read(file)
        if content is None:
            continue
        token = content.decode("ascii", "replace").strip()
        # Checked here, because a header with other characters fails far from its cause.
        if not token or not all("!" <= character <= "~" for character in token):
            raise NotAllowed(f"{file} holds no token: one line of printable ASCII is expected")
        return token
    raise NotAllowed(
        f"there is no token in {' or '.join(map(str, files))}; "
        "name the file that holds it with --url URL and --token-file FILE"
    )
