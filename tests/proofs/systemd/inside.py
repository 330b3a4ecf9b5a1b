"""Runs as root inside the container that scripts/with-systemd boots: the service as an operator has it.

Needs nothing but the standard library. Each scenario is a line of JSON on standard output: its name,
what was seen, and the traceback where it was not as it should be. usage: inside.py WHEEL
"""

import http.client
import json
import os
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

PREFIX = Path("/opt/yoi-daemon")
PYTHON = str(PREFIX / "bin" / "python")
CONFIG = Path("/etc/yoi-daemon")
DROPIN = Path("/etc/systemd/system/yoi-daemon.service.d/test.conf")
MEMORY = Path("/opt/memory-cgroup")
UNIT = "yoi-daemon.service"
PATIENCE_S = 90.0

PLUGIN = """
import time
import trio
from yoi_daemon.sdk import Context, IngressEvent, Plugin
plugin = Plugin("p")

@plugin.ingress("ok")
async def ok(ctx: Context, event: IngressEvent) -> None: ...

@plugin.ingress("slow")
async def slow(ctx: Context, event: IngressEvent) -> None:
    await trio.sleep(10)

@plugin.ingress("eat")
async def eat(ctx: Context, event: IngressEvent) -> None:
    ctx.local.eaten = [bytearray(1 << 20) for _ in range(1000)]

@plugin.ingress("tell")
async def tell(ctx: Context, event: IngressEvent) -> None:
    ctx.log.warning("two\\nlines", worker_id="wrk_1", runtime_id="backend-internal", large="x" * 1_000_000)
    raise ValueError("told")

@plugin.ingress("block")
async def block(ctx: Context, event: IngressEvent) -> None:
    time.sleep(600)  # the line that the journal is to name
"""
SECRETIVE = """
from yoi_daemon.sdk import Config, Context, IngressEvent, Plugin, Secret
class Settings(Config):
    secret: Secret
plugin = Plugin("secretive", config=Settings)
@plugin.ingress("ok")
async def ok(ctx: Context[Settings], event: IngressEvent) -> None: ...
@plugin.status
async def status(ctx: Context[Settings]) -> int:
    return len(ctx.config.secret.reveal())
"""
PROBING = """
import mmap
import os
import socket
import subprocess
from collections.abc import Callable
from yoi_daemon.sdk import Context, Plugin
plugin = Plugin("probing")

def may(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (OSError, subprocess.CalledProcessError):
        return False
    return True

@plugin.tool("try_all")
def try_all(ctx: Context, arguments: dict[str, str]) -> dict[str, bool]:
    return {
        "ReadWritePaths=/srv/data": may(lambda: open("/srv/data/x", "w").close()),
        "ProtectHome=read-only": may(lambda: os.listdir("/home")),
        "BindPaths=/tmp/shared": may(lambda: os.stat("/tmp/shared")),
        "MemoryDenyWriteExecute=no": may(lambda: mmap.mmap(-1, 4096, prot=7)),
        "ProcSubset=all": may(lambda: os.stat("/proc/meminfo")),
        "ProtectProc=default": may(lambda: os.stat("/proc/1")),
        "SystemCallFilter=@resources": may(lambda: os.nice(1)),
        "RestrictAddressFamilies=AF_NETLINK": may(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()),
        "RestrictNamespaces=no": may(lambda: subprocess.run(["unshare", "--user", "true"], check=True)),
    }
"""
SETTINGS = "[plugins.p]\ndispatch_timeout_s = 600\ndrain_s = 40\n"


def call(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0 or not check, (command, done.returncode, done.stdout, done.stderr)
    return done.stdout


def systemctl(*arguments: str, check: bool = True) -> str:
    return call("systemctl", *arguments, check=check)


def show(name: str) -> str:
    return systemctl("show", "-p", name, "--value", UNIT).strip()


def pid() -> int:
    return int(show("MainPID"))


def daemon(*arguments: str) -> dict:
    """The CLI as root runs it, which finds the service by itself."""
    return json.loads(call(PYTHON, "-m", "yoi_daemon", *arguments, "--json"))


def wait_for(holds: Callable[[], object]) -> object:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            if found := holds():
                return found
        except (AssertionError, OSError):
            pass  # it may not answer yet
        assert time.monotonic() < deadline, (
            f"not within {PATIENCE_S:g} s: {systemctl('status', UNIT, check=False)}"
        )
        time.sleep(0.1)


def journal() -> str:
    call("journalctl", "--sync")
    return call("journalctl", "--no-pager", "-o", "cat", "-u", UNIT)


def begin(dropin: str = "", settings: str = SETTINGS) -> None:
    """The service, fresh, with this drop-in and these settings."""
    systemctl("stop", "yoi-daemon.socket", UNIT, check=False)
    systemctl("reset-failed", UNIT, check=False)
    (CONFIG / "yoi-daemon.toml").write_text(settings)
    DROPIN.parent.mkdir(exist_ok=True)
    DROPIN.write_text(f"[Service]\n{dropin}\n")
    systemctl("daemon-reload")
    systemctl("start", UNIT)


def install(wheel: str) -> None:
    os.umask(0o022)
    call("python3", "-m", "venv", "--without-pip", str(PREFIX))
    (site,) = PREFIX.glob("lib/python3.*/site-packages")
    (locked,) = Path("/opt/venv").glob("lib/python3.*/site-packages")
    (site / "locked.pth").write_text(f"{locked}\n")
    call("python3", "-m", "zipfile", "-e", wheel, str(site))
    call(PYTHON, "-m", "yoi_daemon", "systemd", "install")
    (CONFIG / "plugins").mkdir(parents=True)
    (CONFIG / "plugins" / "p.py").write_text(PLUGIN)


def start_and_readiness() -> dict:
    begin()
    # `start` came back, so READY=1 was heard; the daemon answers without any waiting here.
    assert show("ActiveState") == "active"
    assert daemon("status")["ready"] is True
    line = show("StatusText")
    assert line.startswith("Serving; plugins "), line
    assert show("NRestarts") == "0"
    return {"status": line}


def directories() -> dict:
    begin()
    uid = os.stat(f"/proc/{pid()}").st_uid
    assert 61184 <= uid <= 65519, uid  # systemd's range of dynamic users
    state = Path("/var/lib/yoi-daemon")
    assert state.is_symlink()
    assert state.resolve() == Path("/var/lib/private/yoi-daemon")
    store = (state / "store.sqlite3").stat()
    assert (store.st_uid, stat.S_IMODE(store.st_mode) & 0o077) == (uid, 0)
    for file in (state / "daemon.json", Path("/run/yoi-daemon/daemon.json")):
        assert json.loads(file.read_text())["pid"] == pid()
    # What its user may do to the machine, from where it stands.
    inside = [
        "nsenter",
        "-t",
        str(pid()),
        "-m",
        "setpriv",
        f"--reuid={uid}",
        "--clear-groups",
        "--",
    ]
    subprocess.run([*inside, "touch", str(state / "mine")], check=True)
    for path in (CONFIG / "x", Path("/usr/x"), Path("/root/x")):
        tried = subprocess.run([*inside, "touch", str(path)], capture_output=True, check=False)
        assert tried.returncode != 0, path
    systemctl("stop", UNIT)
    assert not Path("/run/yoi-daemon").exists()
    assert not (state / "daemon.json").exists()
    return {"uid": uid}


def reload() -> dict:
    begin()
    before = pid()
    (CONFIG / "plugins" / "q.py").write_text(PLUGIN.replace('"p"', '"q"'))
    try:
        systemctl("reload", UNIT)
        wait_for(lambda: "plugins 2/2 running" in show("StatusText") or _refresh("q"))
        assert (pid(), show("ActiveState")) == (before, "active")
        states = {one["plugin_id"]: one["state"] for one in daemon("status")["plugins"]}
        assert states["q"] in ("starting", "running"), states
    finally:
        (CONFIG / "plugins" / "q.py").unlink()
    return {"states": states}


def _refresh(name: str) -> bool:
    return any(one["plugin_id"] == name for one in daemon("status")["plugins"])


def notify_reload() -> dict:
    """The drop-in for systemd 253 and later; 252 knows no such type."""
    version = int(systemctl("--version").split()[1])
    if version < 253:
        return {"skipped": f"systemd {version} has no notify-reload"}
    begin("Type=notify-reload\nExecReload=")
    (CONFIG / "yoi-daemon.toml").write_text(SETTINGS + "[daemon]\nlog_level = 'debug'\n")
    systemctl("reload", UNIT)  # returns when READY=1 follows RELOADING=1
    assert "reloaded plugins=" in journal()
    return {"systemd": version}


def refused_reload() -> dict:
    begin()
    before = pid()
    (CONFIG / "yoi-daemon.toml").write_text("[daemon]\nstop_timeout_s = -1\n[nope]\n")
    systemctl("reload", UNIT)
    wait_for(lambda: "last reload refused" in show("StatusText"))
    (told,) = daemon("status")["diagnostics"]
    assert told["code"] == "reload_refused"
    assert "daemon.stop_timeout_s" in told["message"]
    assert "nope" in told["message"]
    assert (pid(), show("ActiveState")) == (before, "active")
    daemon("ingress", "p", "ok", "--data", "1")
    (CONFIG / "yoi-daemon.toml").write_text(SETTINGS)
    systemctl("reload", UNIT)
    wait_for(lambda: "refused" not in show("StatusText"))
    assert daemon("status")["diagnostics"] == []
    return {"message": told["message"]}


def bad_configuration_is_not_tried_again() -> dict:
    begin()
    systemctl("stop", UNIT)
    (CONFIG / "yoi-daemon.toml").write_text("[nope]\n")
    systemctl("start", UNIT, check=False)
    wait_for(lambda: show("ActiveState") == "failed")
    assert (show("ExecMainStatus"), show("NRestarts")) == ("78", "0")
    assert "yoi-daemon.toml:1: nope" in journal()
    return {}


def kill_9() -> dict:
    begin()
    before = pid()
    receipt = daemon("ingress", "p", "ok", "--data", "1")
    os.kill(before, 9)
    wait_for(lambda: show("NRestarts") == "1" and show("ActiveState") == "active")
    assert pid() != before
    assert daemon("status")["pid"] == pid()
    return {"receipt": sorted(receipt)}


def watchdog_kill() -> dict:
    begin("WatchdogSec=10")
    before = pid()
    time.sleep(12)  # systemd's own clock: fed, it lives longer than the interval
    assert (pid(), show("NRestarts")) == (before, "0")
    begun = time.monotonic()
    daemon("ingress", "p", "block", "--data", "1")
    # Who it is, is known long before: to systemd, in the journal, and to who asks.
    wait_for(lambda: show("StatusText").startswith("Event loop held by plugin p, at plugins/p.py:"))
    named_s = time.monotonic() - begun
    asked = subprocess.run(
        [PYTHON, "-m", "yoi_daemon", "status"], capture_output=True, text=True, check=False
    )
    assert "held by plugin p, at plugins/p.py:" in asked.stderr, asked
    (noticed,) = entries("YOI_CODE=loop_blocked", "YOI_PLUGIN=p")
    assert "in block" in noticed["YOI_STACK"], noticed
    wait_for(lambda: show("NRestarts") == "1")
    took = time.monotonic() - begun
    text = journal()
    assert "Watchdog timeout" in text
    assert "Fatal Python error: Aborted" in text
    assert "plugins/p.py" in text
    _forget_everything()
    return {"named_after_s": round(named_s, 1), "killed_after_s": round(took, 1)}


def out_of_memory() -> dict:
    """The kernel kills it for an event; the event kills every next one too, until it is a dead letter."""
    settings = SETTINGS + "attempts = 2\n"
    if "memory" in Path("/sys/fs/cgroup/cgroup.controllers").read_text().split():
        begin("MemoryMax=300M\nMemorySwapMax=0", settings)
        group = None
    elif MEMORY.is_dir():
        # systemd has no say over version 1 here, so the service enters a bounded group by itself.
        group = MEMORY / "service"
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text("300M")
        (group / "memory.swappiness").write_text("0")
        (group / "cgroup.procs").chmod(0o666)
        enter = f"echo $$$$ >{group}/cgroup.procs && exec {PYTHON} -m yoi_daemon run"
        begin(f"ReadWritePaths={group}\nExecStart=\nExecStart=sh -c '{enter}'", settings)
    else:
        return {"skipped": "no memory controller can be seen from inside"}
    receipt = daemon("ingress", "p", "eat", "--data", "1")
    wait_for(lambda: int(show("NRestarts")) >= 1)
    letters = wait_for(lambda: daemon("dead", "list", "p")["items"])
    assert [one["event_id"] for one in letters] == [receipt["event_id"]]
    after = wait_for(lambda: daemon("ingress", "p", "ok", "--data", "1"))
    wait_for(lambda: daemon("plugin", "show", "p")["queue_depth"] == 0)
    restarts, text = show("NRestarts"), journal()
    if group is None:
        assert "oom-kill" in text
    else:
        killed = dict(
            line.split() for line in (group / "memory.oom_control").read_text().splitlines()
        )
        assert int(killed["oom_kill"]) == int(restarts), killed
        assert "code=killed, status=9/KILL" in text
    assert show("ActiveState") == "active"
    _forget_everything()
    return {"restarts": restarts, "then handled": after["event_id"], "version 1": group is not None}


def _forget_everything() -> None:
    """What ended the daemon is delivered again: it would end the next one too."""
    systemctl("kill", "-s", "KILL", UNIT, check=False)
    systemctl("stop", UNIT, check=False)
    call("rm", "-rf", "/var/lib/private/yoi-daemon")


def slow_drain() -> dict:
    """The drain is longer than systemd would wait, had it not been asked to."""
    control = "yoi-control.service"
    begin("TimeoutStopSec=3", SETTINGS + "[daemon]\nstop_timeout_s = 100\n")
    call(
        "systemd-run",
        "-q",
        f"--unit={control}",
        "-p",
        "TimeoutStopSec=3",
        "sh",
        "-c",
        'trap "" TERM; while :; do sleep 1; done',
    )
    daemon("ingress", "p", "slow", "--data", "1")
    wait_for(lambda: daemon("status")["plugins"][0]["queue_depth"] == 1)
    unhandled = journal().count("events not handled")
    begun = time.monotonic()
    systemctl("stop", UNIT)
    took = time.monotonic() - begun
    assert took > 5, took
    assert journal().count("events not handled") == unhandled
    assert (show("Result"), show("ExecMainStatus")) == ("success", "0")
    systemctl("stop", control, check=False)
    killed = systemctl("show", "-p", "Result", "--value", control).strip()
    assert killed == "timeout", killed
    systemctl("reset-failed", control, check=False)
    return {"drained_s": round(took, 1)}


def _hammer(restart: Callable[[], object]) -> Counter[str]:
    """Eight clients, a connection for each request, while `restart` runs."""
    seen: Counter[str] = Counter()
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", 7420, timeout=PATIENCE_S)
            try:
                connection.request("GET", "/healthz")
                seen[str(connection.getresponse().status)] += 1
            except OSError as error:
                seen[type(error).__name__] += 1
            finally:
                connection.close()

    clients = [threading.Thread(target=client) for _ in range(8)]
    for one in clients:
        one.start()
    time.sleep(2)
    restart()
    time.sleep(2)
    over.set()
    for one in clients:
        one.join(PATIENCE_S)
    return seen


def socket_activated_restart() -> dict:
    begin()
    systemctl("stop", UNIT)
    systemctl("start", "yoi-daemon.socket")
    assert show("ActiveState") == "inactive"
    activated = http.client.HTTPConnection("127.0.0.1", 7420, timeout=PATIENCE_S)
    activated.request("GET", "/healthz")  # this starts it
    assert activated.getresponse().status == 200
    activated.close()
    before = pid()
    seen = _hammer(lambda: systemctl("restart", UNIT))
    assert pid() != before
    assert seen["200"] > 16, seen
    assert seen["ConnectionRefusedError"] == 0, seen
    # And the control: without the socket unit the same clients are refused.
    systemctl("stop", "yoi-daemon.socket", UNIT)
    begin()
    control = _hammer(lambda: systemctl("restart", UNIT))
    assert control["ConnectionRefusedError"] > 0, control
    return {"activated": dict(seen), "without the socket": dict(control)}


def a_socket_nobody_listens_on_is_refused() -> dict:
    begin()
    systemctl("stop", UNIT)
    (CONFIG / "yoi-daemon.toml").write_text('[api]\nlisten = "127.0.0.1:7430"\n')
    systemctl("start", "yoi-daemon.socket")
    systemctl("start", UNIT, check=False)
    wait_for(lambda: show("ActiveState") == "failed")
    assert show("ExecMainStatus") == "78"
    assert "yoi-daemon.socket: ListenStream: 127.0.0.1:7420 is no address" in journal()
    return {}


def credentials() -> dict:
    secrets = CONFIG / "secrets"
    secrets.mkdir(mode=0o700, exist_ok=True)
    (CONFIG / "plugins" / "secretive.py").write_text(SECRETIVE)
    settings = SETTINGS + "[plugins.secretive]\nconfig = {secret = 'it'}\n"
    try:
        begin("", settings)
        # Without a credential the plugin says what it misses, and the rest runs.
        states = {one["plugin_id"]: one for one in daemon("status")["plugins"]}
        assert states["secretive"]["state"] == "failed", states
        missing = states["secretive"]["reason"]
        assert "it" in missing["message"], missing
        systemctl("stop", UNIT)
        # One that is named and not there: systemd does not start it.
        DROPIN.write_text(f"[Service]\nLoadCredential=it:{secrets}/it\n")
        systemctl("daemon-reload")
        systemctl("start", UNIT, check=False)
        wait_for(lambda: show("ExecMainStatus") == "243")
        systemctl("stop", UNIT, check=False)
        (secrets / "it").write_text("s3cret")
        (secrets / "it").chmod(0o600)
        begin(f"LoadCredential=it:{secrets}/it", settings)
        record = wait_for(
            lambda: (found := daemon("plugin", "show", "secretive"))["state"] == "running" and found
        )
        assert record["detail"] == 6, record
    finally:
        (CONFIG / "plugins" / "secretive.py").unlink()
    return {"missing": missing}


def entries(*matches: str) -> list[dict]:
    call("journalctl", "--sync")
    # --all: or a long field is shown as null.
    lines = call("journalctl", "--no-pager", "--all", "-o", "json", *matches)
    return [json.loads(line) for line in lines.splitlines()]


def journald_fields() -> dict:
    begin(settings=SETTINGS + "attempts = 1\n")
    receipt = daemon("ingress", "p", "tell", "--data", "1")
    mine = ("YOI_PLUGIN=p", f"YOI_CORRELATION_ID={receipt['correlation_id']}")
    wait_for(lambda: len(entries(*mine)) == 2)
    told, failed = entries(*mine)
    for one in (told, failed):
        assert (one["_SYSTEMD_UNIT"], one["_TRANSPORT"]) == (UNIT, "journal")
        assert (one["SYSLOG_IDENTIFIER"], one["PRIORITY"]) == ("yoi-daemon", "4")
        assert one["YOI_EVENT_ID"] == receipt["event_id"]
    assert told["MESSAGE"].startswith("two\nlines ")
    # The large one came as a sealed file in memory: the sandbox lets it.
    assert len(told["YOI_LARGE"]) == 1_000_000
    assert failed["YOI_CODE"] == "handler_failed"
    assert "told" in failed["YOI_REASON"]
    assert entries("YOI_WORKER=wrk_1", "YOI_RUNTIME=backend-internal") == [told]
    assert entries("YOI_PLUGIN=nobody") == []
    return {"fields": sorted(name for name in failed if name.startswith("YOI_"))}


def the_sandbox_and_the_line_that_relaxes_it() -> dict:
    data = Path("/srv/data")
    data.mkdir(exist_ok=True)
    data.chmod(0o777)
    Path("/tmp/shared").touch()
    (CONFIG / "plugins" / "probing.py").write_text(PROBING)
    try:
        begin()
        taken = wait_for(lambda: daemon("tool", "probing", "try_all"))
        assert not any(taken.values()), taken
        begin("\n".join(taken))
        given = wait_for(lambda: daemon("tool", "probing", "try_all"))
        assert all(given.values()), given
    finally:
        (CONFIG / "plugins" / "probing.py").unlink()
    return {"given": sorted(given)}


SCENARIOS = (
    start_and_readiness,
    directories,
    reload,
    notify_reload,
    refused_reload,
    bad_configuration_is_not_tried_again,
    kill_9,
    slow_drain,
    socket_activated_restart,
    a_socket_nobody_listens_on_is_refused,
    credentials,
    journald_fields,
    the_sandbox_and_the_line_that_relaxes_it,
    watchdog_kill,
    out_of_memory,
)


def main() -> None:
    install(sys.argv[1])
    for scenario in SCENARIOS:
        begun = time.monotonic()
        told: dict = {"name": scenario.__name__, "seen": None, "fault": None}
        try:
            told["seen"] = scenario()
        except Exception:  # noqa: BLE001 - told, and the next one is tried
            told["fault"] = traceback.format_exc() + "\n".join(journal().splitlines()[-40:])
        print(json.dumps(told | {"took_s": round(time.monotonic() - begun, 1)}), flush=True)


if __name__ == "__main__":
    main()
