"""The service under a real systemd: what the unit promises, each seen once. Needs root; skips without."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.proofs.systemd.inside import SCENARIOS

pytestmark = pytest.mark.prove
ROOT = Path(__file__).parents[2]
SKIPPED = 77
RUN_TIMEOUT_S = 1800


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every scenario, in one boot."""
    if os.geteuid() != 0:
        pytest.skip("booting systemd needs root")
    out = tmp_path_factory.mktemp("out")
    # The wheel, as it is installed elsewhere: without it a unit that is not packaged would go unseen.
    build = [
        "pip",
        "--quiet",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(out),
    ]
    subprocess.run([sys.executable, "-m", *build, str(ROOT)], check=True, timeout=300)
    (wheel,) = out.glob("*.whl")
    suite = os.environ.get("YOI_TEST_SUITE", "bookworm")
    done = subprocess.run(
        [
            ROOT / "scripts" / "with-systemd",
            *("--suite", suite, "--requirements", ROOT / "requirements.lock"),
            *("--out", out, "--timeout", str(RUN_TIMEOUT_S), "--"),
            *("python3", "/project/tests/proofs/systemd/inside.py", f"/out/{wheel.name}"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=RUN_TIMEOUT_S + 900,
    )
    if done.returncode == SKIPPED:
        pytest.skip("scripts/with-systemd skipped")
    assert done.returncode == 0, done.stdout
    return {told["name"]: told for told in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", [scenario.__name__ for scenario in SCENARIOS])
def test_it_is_as_the_unit_promises(seen: dict[str, dict[str, Any]], name: str) -> None:
    told = seen[name]
    assert told["fault"] is None, told["fault"]
    if why := told["seen"].get("skipped"):
        pytest.skip(why)
    print(name, told["seen"], f"{told['took_s']} s")
