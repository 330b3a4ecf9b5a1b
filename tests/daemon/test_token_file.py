"""Tokens on disk."""

import os
import stat

import msgspec
import pytest

from yoi_daemon.daemon.token_file import TokenFile
from yoi_daemon.front.principal import ADMIN
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.errors import NotAllowed, Refused, StorageFailed
from yoi_daemon.model.tokens import TokenRecord

RECORD = TokenRecord(
    token_id="tok_1", sha256="00" * 32, label="é", scopes=("events:read",), created_by="admin",
    created_s=1.5, expires_s=2.5,
)  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokens.json"


def test_what_is_written_is_read_and_is_for_its_owner_alone(path):
    file = TokenFile(path)
    assert file.load() == ()
    old = os.umask(0)
    try:
        file.save([RECORD])
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert file.load() == (RECORD,)
    assert [one.name for one in path.parent.iterdir()] == ["tokens.json"]


async def test_no_secret_is_in_the_file(path):
    secret, _ = await Tokens("admin", keeper=TokenFile(path)).create(ADMIN, scopes=["events:read"])
    content = path.read_text()
    assert secret not in content
    assert secret.removeprefix("yoi_") not in content
    reopened = Tokens("admin", keeper=TokenFile(path))
    assert reopened.authenticate(f"Bearer {secret}", "test").scopes == {"events:read"}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"version": 1}', b'{"version": 1, "tokens": [{}]}', b"\xff",
     b'{"version": 2, "tokens": []}', b'{"version": 1, "tokens": [], "more": 1}'],
)  # fmt: skip
def test_what_does_not_read_stops_the_start_and_stays_as_it_is(path, content):
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(StorageFailed, match=r"tokens\.json"):
        TokenFile(path).load()
    assert path.read_bytes() == content


@pytest.mark.parametrize("mode", [0o660, 0o606, 0o644])
def test_a_file_that_others_reach_is_refused(path, mode):
    TokenFile(path).save([RECORD])
    path.chmod(mode)
    with pytest.raises(NotAllowed, match="open to others"):
        TokenFile(path).load()


def test_a_write_that_fails_leaves_what_was(path, monkeypatch):
    file = TokenFile(path)
    file.save([RECORD])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFailed, match="make room"):
        file.save([])
    assert file.load() == (RECORD,)


async def test_a_full_disk_is_typed(path, monkeypatch):
    tokens = Tokens("admin", keeper=TokenFile(path))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Refused, match="storage_low"):
        await tokens.create(ADMIN, scopes=["events:read"])


def test_the_largest_file_there_can_be_is_read(path):
    scopes = tuple(f"ingress:write:{'x' * 29}{n:03}" for n in range(32))
    records = [
        msgspec.structs.replace(
            RECORD, token_id=f"tok_{n:026}", sha256=f"{n:064}", label="é" * 100, scopes=scopes
        )
        for n in range(1000)
    ]
    TokenFile(path).save(records)
    assert len(TokenFile(path).load()) == 1000


@pytest.mark.parametrize("twice", ["token_id", "sha256"])
def test_a_token_twice_is_refused(path, twice):
    other = msgspec.structs.replace(RECORD, token_id="tok_2", sha256="11" * 32)
    same = msgspec.structs.replace(other, **{twice: getattr(RECORD, twice)})
    TokenFile(path).save([RECORD, same])
    with pytest.raises(StorageFailed, match="a token twice"):
        TokenFile(path).load()
    TokenFile(path).save([RECORD, other])
    assert len(TokenFile(path).load()) == 2


@pytest.mark.parametrize("what", ["replaced", "written", "removed"])
def test_what_somebody_else_changed_is_not_written_over_before_it_was_read(path, what):
    file = TokenFile(path)
    file.save([])
    copy = path.read_bytes()
    file.save([RECORD])
    if what == "removed":
        path.unlink()
    elif what == "written":
        path.write_bytes(copy)
    else:
        path.with_suffix(".copy").write_bytes(copy)
        path.with_suffix(".copy").chmod(0o600)
        path.with_suffix(".copy").rename(path)
    with pytest.raises(Refused, match=r"tokens\.json was changed by somebody else"):
        file.save([RECORD])
    assert file.load() == ()
    file.save([RECORD])
    assert file.load() == (RECORD,)
