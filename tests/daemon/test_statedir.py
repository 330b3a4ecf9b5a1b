import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from yoi_daemon.daemon.statedir import (
    MAX_EPOCHS,
    admin_token,
    hold_state_directory,
    remember_epoch,
    write_daemon_file,
)
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import ConfigurationError, NotAllowed


@pytest.fixture
def directories(tmp_path) -> Directories:
    state = tmp_path / "deep" / "state"
    return Directories(tmp_path / "config", state, state / "secrets")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_directories_are_made_for_their_owner_alone(directories):
    with hold_state_directory(directories):
        assert mode(directories.state) == mode(directories.secrets) == 0o700


def test_secrets_that_lie_elsewhere_are_not_made(tmp_path):
    found = Directories(tmp_path / "c", tmp_path / "s", tmp_path / "credentials")
    with hold_state_directory(found):
        assert not found.secrets.exists()


def test_one_daemon_holds_a_state_directory(directories):
    with hold_state_directory(directories):
        with (
            pytest.raises(ConfigurationError, match="another daemon runs"),
            hold_state_directory(directories),
        ):
            pass
        assert directories.state.exists()
    with hold_state_directory(directories):
        pass


def test_a_lock_ends_with_its_process(directories):
    """However it died: nothing has to be cleaned up."""
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from yoi_daemon.daemon.statedir import hold_state_directory\n"
        "from yoi_daemon.model.directories import Directories\n"
        "state = Path(sys.argv[1])\n"
        "with hold_state_directory(Directories(state, state, state / 'secrets')):\n"
        "    (state / 'daemon.json').write_text('{}')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, directories.state], check=False)
    assert killed.returncode == -9
    assert directories.daemon_files[0].exists()
    with hold_state_directory(directories):
        pass
    assert not directories.daemon_files[0].exists()


def test_a_refused_second_leaves_the_first_ones_file(directories):
    with hold_state_directory(directories):
        write_daemon_file(directories, {"pid": 1})
        with pytest.raises(ConfigurationError), hold_state_directory(directories):
            pass
        assert json.loads(directories.daemon_files[0].read_text()) == {"pid": 1}
    assert not directories.daemon_files[0].exists()


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_the_file_that_says_where_it_listens_goes_at_the_end(directories, ends):
    try:
        with hold_state_directory(directories):
            write_daemon_file(directories, {"pid": 1, "api": "http://127.0.0.1:1"})
            assert mode(directories.daemon_files[0]) == 0o600
            if ends == "badly":
                raise KeyError("a fault")
    except KeyError:
        pass
    assert not directories.daemon_files[0].exists()


def test_the_admins_token_is_made_once_for_its_owner_alone(directories):
    with hold_state_directory(directories):
        old = os.umask(0)
        try:
            token = admin_token(directories)
        finally:
            os.umask(old)
        assert mode(directories.admin_token_file) == 0o600
        assert token.startswith("yoi_")
        assert len(token) >= 40
        assert admin_token(directories) == token
        assert token == directories.admin_token_file.read_text().strip()
        assert sorted(path.name for path in directories.state.iterdir()) == [
            "admin.token",
            "lock",
            "secrets",
        ]


def test_an_empty_token_file_is_no_token(directories):
    with hold_state_directory(directories):
        directories.admin_token_file.touch(0o600)
        assert admin_token(directories).startswith("yoi_")


def test_a_left_over_of_a_crash_is_in_nobodys_way(directories):
    with hold_state_directory(directories):
        (directories.state / "admin.token.new").write_text("half")
        (directories.state / "daemon.json.new").write_text("half")
        write_daemon_file(directories, {"pid": 2})
        assert json.loads(directories.daemon_files[0].read_text()) == {"pid": 2}
        assert admin_token(directories) != "half"


def test_a_token_file_that_cannot_be_read_is_told_without_its_content(directories):
    with hold_state_directory(directories):
        directories.admin_token_file.touch(0o600)
        directories.admin_token_file.write_bytes(b"secret\xff")
        with pytest.raises(NotAllowed, match=r"admin\.token cannot be read") as caught:
            admin_token(directories)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o602, 0o777])
def test_a_token_that_others_could_read_or_write_is_refused_and_not_mended(directories, mode):
    with hold_state_directory(directories):
        token = admin_token(directories)
        directories.admin_token_file.chmod(mode)
        with pytest.raises(NotAllowed, match=f"mode {mode:04o}.*chmod 600") as caught:
            admin_token(directories)
        assert token not in str(caught.value)
        assert stat.S_IMODE(directories.admin_token_file.stat().st_mode) == mode
        directories.admin_token_file.chmod(0o400)  # its owner may keep it safer
        assert admin_token(directories) == token


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_token_of_somebody_else_is_refused(directories):
    with hold_state_directory(directories):
        admin_token(directories)
        os.chown(directories.admin_token_file, 65534, -1)
        with pytest.raises(NotAllowed, match="belongs to user 65534, and the daemon runs as 0"):
            admin_token(directories)


@pytest.mark.parametrize("kind", ["link", "pipe", "directory", "dangling"])
def test_a_token_that_is_no_plain_file_is_refused_and_not_waited_for(directories, tmp_path, kind):
    path = directories.admin_token_file
    with hold_state_directory(directories):
        match kind:
            case "link":
                (tmp_path / "planted").touch(0o600)
                (tmp_path / "planted").write_text("yoi_planted")
                path.symlink_to(tmp_path / "planted")
            case "dangling":
                path.symlink_to(tmp_path / "nowhere")
            case "pipe":
                os.mkfifo(path, 0o600)
            case _:
                path.mkdir(0o700)
        with pytest.raises(NotAllowed, match=r"admin\.token"):
            admin_token(directories)


def test_a_state_directory_that_cannot_be_made_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    found = Directories(tmp_path, tmp_path / "file" / "state", tmp_path / "secrets")
    with pytest.raises(NotAllowed, match="--state DIR"), hold_state_directory(found):
        pass


@pytest.mark.parametrize("open_to", [0o770, 0o707, 0o722])
def test_a_state_directory_that_others_can_write_is_refused(directories, open_to):
    with hold_state_directory(directories):
        pass
    directories.state.chmod(open_to)
    with pytest.raises(NotAllowed, match="chmod go-w"), hold_state_directory(directories):
        pass
    directories.state.chmod(0o755)  # as systemd makes it
    with hold_state_directory(directories):
        pass


def test_a_daemon_file_that_cannot_be_written_is_told(directories):
    with pytest.raises(NotAllowed, match=r"daemon\.json cannot be read or made"):
        write_daemon_file(directories, {})


def test_epochs_are_remembered_and_bounded(directories):
    names = [f"{number:016x}" for number in range(MAX_EPOCHS + 3)]
    with hold_state_directory(directories):
        told = [remember_epoch(directories, name) for name in names]
        assert told[0] == ()
        assert told[2] == (names[0], names[1])
        assert told[-1] == tuple(names[2:-1])
        assert remember_epoch(directories, names[-1]) == tuple(names[2:-1])  # the same log again
    assert (directories.state / "epochs").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"nonsense\n../../etc\n", b"0123\n"])
def test_a_file_of_epochs_that_reads_as_none_is_begun_anew(directories, content):
    with hold_state_directory(directories):
        (directories.state / "epochs").write_bytes(content)
        assert remember_epoch(directories, "0" * 16) == ()
        assert remember_epoch(directories, "1" * 16) == ("0" * 16,)
