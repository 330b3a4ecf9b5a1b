"""Runs as root inside the container that scripts/with-systemd boots: the manual's page for operators.

Every line of its blocks of commands, in order, in a copy of the clone; each must succeed. A line of
JSON for each: the command, its exit code, how long it took and the end of what it said.
usage: page.py PAGE
"""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

CLONE = "/root/clone"
PATIENCE_S = 300


def commands(page: str) -> list[str]:
    """The lines of the section's blocks that are for root's shell."""
    section = page.partition("\n## As a service\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh root\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def main() -> None:
    shutil.copytree(
        "/project", CLONE, ignore=shutil.ignore_patterns(".git", ".venv*", "__pycache__")
    )
    for command in commands(Path(sys.argv[1]).read_text("utf-8")):
        begun = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=CLONE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        told = {"command": command, "code": done.returncode, "said": done.stdout[-3000:]}
        print(json.dumps(told | {"took_s": round(time.monotonic() - begun, 1)}), flush=True)
        if done.returncode != 0:
            break


if __name__ == "__main__":
    main()
