from yoi_daemon.daemon.opening import open_daemon
from yoi_daemon.daemon.reloading import reload
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.settings import Settings


async def test_what_a_group_may_write_is_told_for_information_until_it_is_mended(tmp_path):
    """It does not make the daemon unwell: as many a user's umask is, every file is so."""
    directories = Directories(tmp_path, tmp_path / "state", tmp_path / "secrets")
    directories.state.mkdir()
    directories.config_file.write_text("")
    directories.config_file.chmod(0o664)
    async with open_daemon(directories, Settings(), Tokens("token"), {}) as daemon:
        assert daemon.status().diagnostics == ()
        await reload(daemon)
        (told,) = daemon.status().diagnostics
        assert (told.code, told.severity) == ("group_writable", "info")
        assert told.message.startswith("configuration/yoi-daemon.toml: may be written by its group")
        directories.config_file.chmod(0o644)
        await reload(daemon)
        assert daemon.status().diagnostics == ()
