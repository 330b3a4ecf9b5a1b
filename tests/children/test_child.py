"""Real child processes: they end when they are told to, whatever they do, and nothing of them is left."""

import os
import resource
import signal
import subprocess
from collections.abc import Awaitable, Callable

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.children.conftest import is_alive
from yoi_daemon.children.child import Child, Command, inherited, open_child
from yoi_daemon.children.failures import ChildNotAllowed, ChildNotFound, Exit
from yoi_daemon.children.limits import Limits

READ_ALL = "import sys\nsys.stdin.read()"
SLEEP = "import time\nprint('up')\ntime.sleep(600)"
DEAF = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEP
DOUBLE_FORK = """
import os, time
if not os.fork():
    if not os.fork():
        print(os.getpid())
        time.sleep(600)
    os._exit(0)
os.wait()
"""
QUICK = {"ask_s": 0.05, "term_s": 0.05}


async def first_line(child: Child) -> str:
    line = b""
    while not line.endswith(b"\n"):
        chunk = await child.stdout.receive_some(100)
        assert chunk, f"it ended early: {child.stderr}"
        line += chunk
    return line.decode().strip()


async def end_of(pid: int) -> None:
    """Waits for the end of a process that is no child of this one."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with trio.fail_after(10):
            await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


async def test_a_child_whose_input_ends_is_asked_first(python):
    async with open_child(python(READ_ALL, ask_s=30)) as child:
        pass
    assert await child.wait() == Exit(status=0)
    assert not is_alive(child.pid)


async def test_a_child_that_ignores_its_input_is_terminated(python):
    async with open_child(python(SLEEP, ask_s=0.05, term_s=30)) as child:
        await first_line(child)
    assert await child.wait() == Exit(signal=signal.SIGTERM)


async def test_a_child_that_ignores_sigterm_is_killed(python):
    async with open_child(python(DEAF, **QUICK)) as child:
        await first_line(child)
    assert await child.wait() == Exit(signal=signal.SIGKILL)
    assert not is_alive(child.pid)


@pytest.mark.parametrize("ends_by_itself", [True, False])
async def test_what_a_child_forked_twice_ends_with_it(python, ends_by_itself):
    # It ends by itself when it is told to: not before the one below has written.
    source = DOUBLE_FORK + ("input()" if ends_by_itself else "time.sleep(600)")
    async with open_child(python(source, **QUICK)) as child:
        orphan = int(await first_line(child))
        assert os.getpgid(orphan) == child.pid
        if ends_by_itself:
            await child.stdin.send_all(b"\n")
            assert await child.wait() == Exit(status=0)
    await end_of(orphan)


async def test_the_control_an_orphan_outlives_a_process_that_is_killed_alone(python):
    command = python(DOUBLE_FORK + "time.sleep(600)")
    process = await trio.lowlevel.open_process(
        command.argv, stdout=subprocess.PIPE, env=command.environment, start_new_session=True
    )
    async with process.stdout:
        orphan = int(await process.stdout.receive_some(100))
        process.kill()
        await process.wait()
        assert is_alive(orphan)
    os.killpg(process.pid, signal.SIGKILL)
    await end_of(orphan)


async def test_a_child_killed_from_outside_is_reaped_and_says_how_it_ended(python):
    async with open_child(python(SLEEP)) as child:
        await first_line(child)
        os.kill(child.pid, signal.SIGKILL)
        assert await child.wait() == Exit(signal=signal.SIGKILL)
        with pytest.raises(ProcessLookupError):
            os.kill(child.pid, 0)
        assert await child.stop() == Exit(signal=signal.SIGKILL)


async def test_a_child_has_a_session_of_its_own_and_only_the_environment_it_is_given(
    python, tmp_path
):
    source = "import os\nprint(os.getsid(0) == os.getpid(), os.getcwd(), sorted(os.environ))"
    command = msgspec.structs.replace(python(source), cwd=tmp_path, environment={"LC_CTYPE": "C"})
    async with open_child(command) as child:
        assert await first_line(child) == f"True {tmp_path} ['LC_CTYPE']"


def test_only_listed_variables_are_inherited():
    environ = {"PATH": "/bin", "GITHUB_TOKEN": "secret", "TZ": "UTC"}
    assert inherited(environ) == {"PATH": "/bin", "TZ": "UTC"}


async def test_of_standard_error_the_last_is_kept(python):
    source = "import sys\nsys.stderr.write('x' * 1_000_000 + 'the end\\xff')"
    async with open_child(python(source, stderr_bytes=10)) as child:
        await child.wait()
    assert len(child.stderr.encode()) == 10
    assert child.stderr.endswith("endÿ")


async def test_standard_error_held_open_by_a_process_out_of_the_group_does_not_hold_the_end(python):
    source = """
import os, time
if not os.fork():
    os.setsid()
    print(os.getpid())
    time.sleep(600)
time.sleep(600)
"""
    async with open_child(python(source, **QUICK)) as child:
        stranger = int(await first_line(child))
    try:
        assert is_alive(stranger)
    finally:
        os.kill(stranger, signal.SIGKILL)


@pytest.mark.parametrize(
    ("argv", "error", "says"),
    [
        (("/nowhere/program",), ChildNotFound, "there is no /nowhere/program"),
        (("/",), ChildNotAllowed, "Permission denied"),
        (("a\0b",), ChildNotAllowed, "null byte"),
    ],
)
async def test_what_cannot_be_started_is_a_failure_of_its_kind(argv, error, says):
    with pytest.raises(error, match=says):
        async with open_child(Command(argv=argv, environment={})):
            pass


async def test_a_working_directory_that_is_not_there_is_named(python, tmp_path):
    with pytest.raises(ChildNotFound, match=r"there is no .*none"):
        async with open_child(python(READ_ALL, cwd=tmp_path / "none")):
            pass


async def test_limits_bound_the_child(python):
    limits = Limits(memory_bytes=1 << 30, cpu_s=7, file_bytes=1000, open_files=50)
    source = (
        "import resource as r, sys\nsys.stdin.read()\n"
        "kinds = r.RLIMIT_AS, r.RLIMIT_CPU, r.RLIMIT_FSIZE, r.RLIMIT_NOFILE, r.RLIMIT_CORE\n"
        "print(*(r.getrlimit(kind)[1] for kind in kinds))"
    )
    async with open_child(python(source, limits=limits)) as child:
        await child.stdin.aclose()
        assert await first_line(child) == f"{1 << 30} 7 1000 50 0"


async def test_a_limit_above_the_daemons_own_is_the_daemons_own(python):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    source = (
        "import resource, sys\nsys.stdin.read()\nprint(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    async with open_child(python(source, limits=Limits(open_files=hard + 1))) as child:
        await child.stdin.aclose()
        assert await first_line(child) == f"({hard}, {hard})"


def test_limits_of_a_process_that_has_ended_are_passed_over():
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    Limits(cpu_s=1).apply(pid)


async def wait_for_it(child: Child) -> None:
    await child.wait()


async def stop_it(child: Child) -> None:
    await child.stop()


async def fill_its_input(child: Child) -> None:
    await child.stdin.send_all(b"x" * 10_000_000)


async def read_it(child: Child) -> None:
    await child.stdout.receive_some(10)


@pytest.mark.parametrize("phase", [wait_for_it, stop_it, fill_its_input, read_it])
async def test_a_child_cancelled_in_any_phase_is_ended(
    python, phase: Callable[[Child], Awaitable[None]]
):
    children: list[Child] = []

    async def live(task_status: trio.TaskStatus[None]) -> None:
        async with open_child(python(DEAF, **QUICK)) as child:
            children.append(child)
            await first_line(child)
            task_status.started()
            await phase(child)

    async with trio.open_nursery() as nursery:
        await nursery.start(live)
        await wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    assert not is_alive(children[0].pid)
    assert await children[0].wait() == Exit(signal=signal.SIGKILL)


async def test_a_child_cancelled_while_it_starts_is_ended(python, tmp_path):
    pids = tmp_path / "pids"
    source = (
        f"import os, time\nopen({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n')\ntime.sleep(600)"
    )
    for checkpoints in range(0, 60, 3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(live_until_cancelled, python(source, **QUICK))
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    if pids.exists():
        assert not any(is_alive(int(pid)) for pid in pids.read_text().split())


async def live_until_cancelled(command: Command) -> None:
    async with open_child(command):
        await trio.sleep_forever()


async def test_what_is_raised_beside_a_child_is_raised_as_it_is(python):
    with pytest.raises(LookupError):
        async with open_child(python(READ_ALL)):
            raise LookupError


async def test_no_descriptor_is_left(python):
    async with open_child(python(READ_ALL)):
        before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        async with open_child(python(READ_ALL)):
            assert len(os.listdir("/proc/self/fd")) == before
