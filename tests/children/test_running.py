import os
import sys
from functools import partial

import pytest
import trio

from tests.children.conftest import is_alive
from yoi_daemon.children.child import inherited
from yoi_daemon.children.failures import ChildTimeout, Exit, MessageTooLarge
from yoi_daemon.children.running import Completed, run

PYTHON = (sys.executable, "-I", "-S", "-u", "-c")
ENVIRONMENT = inherited(os.environ)


async def test_a_program_is_run_to_its_end_with_what_it_writes():
    source = "import sys\nprint(sys.stdin.read()[::-1])\nsys.stderr.write('why')\nsys.exit(3)"
    completed = await run([*PYTHON, source], environment=ENVIRONMENT, timeout_s=30, input=b"abc")
    assert completed == Completed(Exit(status=3), b"cba\n", "why")
    assert not completed.exit.is_success
    assert str(completed.exit) == "exit status 3"


async def test_input_that_is_not_read_holds_nothing():
    completed = await run(
        ["/bin/true"], environment=ENVIRONMENT, timeout_s=30, input=b"x" * 1_000_000
    )
    assert completed.exit.is_success


async def test_a_program_that_takes_too_long_is_ended():
    source = "import os, time\nprint(os.getpid())\ntime.sleep(600)"
    with pytest.raises(ChildTimeout, match=r"took over 0\.3 s"):
        await run([*PYTHON, source], environment=ENVIRONMENT, timeout_s=0.3)


async def test_output_over_its_bound_ends_the_program():
    source = "import sys\nwhile True: sys.stdout.write('x' * 100_000)"
    with pytest.raises(MessageTooLarge, match="larger than 1000 bytes"):
        await run([*PYTHON, source], environment=ENVIRONMENT, timeout_s=30, max_output_bytes=1000)


async def test_output_held_open_by_what_a_program_left_behind_does_not_hold_its_end():
    source = "import os, time\nif not os.fork(): time.sleep(600)\nprint('done')"
    completed = await run([*PYTHON, source], environment=ENVIRONMENT, timeout_s=30)
    assert completed.stdout == b"done\n"


async def test_a_program_whose_caller_is_cancelled_is_ended(tmp_path):
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)
    source = f"import os, time\nopen({str(fifo)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(run, [*PYTHON, source], environment=ENVIRONMENT, timeout_s=30))
        pid = int(await trio.to_thread.run_sync(fifo.read_text))
        nursery.cancel_scope.cancel()
    assert not is_alive(pid)
