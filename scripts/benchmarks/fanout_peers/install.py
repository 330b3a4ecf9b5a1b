"""Builds and installs what the benchmark is measured beside, once, into the user's cache directory."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
FLOOR, WS, WEBSOCKETS, NATS = "C send loop", "node ws", "websockets", "nats-server"
PYTHON_FLOOR = "py send loop"
WS_VERSION = "8.23.0"
WEBSOCKETS_PINS = ("websockets==17.4", "uvloop==0.23.0")


@dataclass(frozen=True)
class Peers:
    """The command of each; of a peer that could not be installed, why not."""

    client: Path
    commands: dict[str, list[str]]
    missing: dict[str, str]


class NotInstalled(Exception):
    """Tells why."""


def install() -> Peers:
    """Takes what an earlier call left. Raises `NotInstalled` without a C compiler: the client is C."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yoi-daemon-bench"
    cache.mkdir(parents=True, exist_ok=True)
    client, floor = (_compile(cache, name) for name in ("client", "send_loop"))
    commands = {
        FLOOR: [str(floor)],
        PYTHON_FLOOR: [sys.executable, str(HERE / "send_loop.py")],
    }
    missing: dict[str, str] = {}
    for name, find in (
        (WS, _ws),
        (WEBSOCKETS, _websockets),
        (NATS, _nats),
    ):
        try:
            commands[name] = find(cache)
        except (NotInstalled, OSError) as error:
            missing[name] = str(error)
    return Peers(client, commands, missing)


def _compile(cache: Path, name: str) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        raise NotInstalled("no C compiler: install one that is called cc")
    source, target = HERE / f"{name}.c", cache / name
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        flags = ["-O2", "-D_GNU_SOURCE", "-Wall", "-Wextra"]
        _run([compiler, *flags, "-o", str(target), str(source)])
    return target


def _ws(cache: Path) -> list[str]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NotInstalled("no node and npm: install Node.js")
    folder = cache / f"ws-{WS_VERSION}"
    if not (folder / "node_modules" / "ws").exists():
        flags = ["--no-audit", "--no-fund", "--ignore-scripts"]
        _run([npm, "install", "--prefix", str(folder), *flags, f"ws@{WS_VERSION}"])
    # Node looks for modules beside the script.
    script = shutil.copy(HERE / "ws_server.js", folder)
    return [node, str(script)]


def _websockets(cache: Path) -> list[str]:
    venv = cache / "-".join(WEBSOCKETS_PINS).replace("==", "-")
    python = venv / "bin" / "python"
    if not (venv / "installed").exists():
        _run([sys.executable, "-m", "venv", "--clear", str(venv)])
        _run([str(python), "-m", "pip", "install", "--only-binary", ":all:", *WEBSOCKETS_PINS])
        (venv / "installed").touch()
    return [str(python), str(HERE / "websockets_server.py")]


def _nats(cache: Path) -> list[str]:
    """Debian's, or one on the path."""
    if found := shutil.which("nats-server"):
        return [found]
    folder = cache / "nats-server"
    server = folder / "usr" / "sbin" / "nats-server"
    if not server.exists():
        if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
            raise NotInstalled("no nats-server on the path, and no apt-get to take Debian's with")
        folder.mkdir(exist_ok=True)
        _run(["apt-get", "download", "nats-server"], folder)
        (package,) = folder.glob("nats-server_*.deb")
        _run(["dpkg", "-x", str(package), str(folder)])
        package.unlink()
    return [str(server)]


def _run(command: list[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode:
        words = " ".join(Path(part).name for part in command[:3])
        raise NotInstalled(f"{words}: {done.stderr.strip()[-400:]}")
