"""The runtime is a library first: no server, no registry, no plugin host, no daemon."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import trio
from yoi_daemon.eventlog.opening import open_event_log
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.settings import ObserveSettings, RuntimeSettings
from yoi_daemon.runtime.embedded import open_embedded_runtime
from yoi_daemon.runtime.profiles import make_profiles


async def main() -> None:
    async with (
        open_event_log(ObserveSettings()) as log,
        open_embedded_runtime(log, IdSource(), make_profiles({}), RuntimeSettings()) as runtime,
    ):
        made = await runtime.create(profile="builtin:echo", label="", input="hello")
        page = await runtime.transcript(made.worker.worker_id)
        while len(page.items) < 2:
            await log.wait_beyond(log.head)
            page = await runtime.transcript(made.worker.worker_id)
        print([(item.role, item.text) for item in page.items])


trio.run(main)
"""
LOADED = "import sys\nprint(sorted(name for name in sys.modules if name.count('.') == 1))\n"


def test_it_runs_in_ten_lines_with_nothing_but_the_log_beside_it():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM + LOADED],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    said, loaded = done.stdout.splitlines()
    assert said == "[('user', 'hello'), ('assistant', 'hello')]"
    assert {name for name in eval(loaded) if name.startswith("yoi_daemon.")} == {
        f"yoi_daemon.{room}" for room in ("cancellation", "eventlog", "model", "runtime", "store")
    }
    body = PROGRAM.partition("async def main")[2].partition("trio.run")[0]
    assert len([line for line in body.splitlines()[1:] if line.strip()]) == 10
