"""Without the `observe` extra everything but the stream works."""

import subprocess
import sys

import pytest

CORE = "yoi_daemon.serve, yoi_daemon.cli.main, yoi_daemon.sdk, yoi_daemon.api.app, yoi_daemon.daemon.opening"
WITHOUT = "import sys\nsys.modules['trio_websocket'] = None\n"


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )


def test_nothing_imports_the_websocket_library_unless_the_stream_is_used():
    done = run(
        f"import {CORE}\nimport sys\n"
        "assert not [name for name in sys.modules if name.startswith('trio_websocket')]\n"
        "assert 'yoi_daemon.observe.server' not in sys.modules\n"
    )
    assert done.returncode == 0, done.stderr


def test_all_but_the_stream_imports_without_the_extra():
    done = run(f"{WITHOUT}import {CORE}\nimport yoi_daemon.stream.protocol\n")
    assert done.returncode == 0, done.stderr


def test_the_negative_control_the_stream_does_not():
    done = run(f"{WITHOUT}import yoi_daemon.observe.server\n")
    assert done.returncode == 1
    assert "trio_websocket" in done.stderr


@pytest.mark.parametrize(
    ("enabled", "wanted"), [('"auto"', False), ("true", None), ("false", False)]
)
def test_asking_for_the_stream_without_the_extra_says_what_to_install(tmp_path, enabled, wanted):
    (tmp_path / "yoi-daemon.toml").write_text(f"[observe]\nenabled = {enabled}\n")
    done = run(
        f"{WITHOUT}from pathlib import Path\n"
        "from yoi_daemon.daemon.settings_file import read_settings\n"
        "from yoi_daemon.model.directories import Directories\n"
        "from yoi_daemon.serve import _wants_observe\n"
        f"found = Directories(Path({str(tmp_path)!r}), Path('/s'), Path('/x'))\n"
        "print(_wants_observe(read_settings(found, {}), found))\n"
    )
    if wanted is None:
        assert done.returncode == 1
        assert "observe.enabled" in done.stderr
        assert "pip install 'yoi-daemon[observe]'" in done.stderr
    else:
        assert (done.returncode, done.stdout.strip()) == (0, str(wanted))
