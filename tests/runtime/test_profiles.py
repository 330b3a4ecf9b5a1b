import pytest

from yoi_daemon.model.configuration import kinds_of
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.settings import EchoProfileSettings, ProfileSettings
from yoi_daemon.model.workers import BUILTIN_ECHO
from yoi_daemon.runtime.profiles import ENGINES, make_profiles


def test_the_builtin_profile_is_there_without_configuration():
    assert make_profiles({}).names == ("builtin:echo",)
    assert make_profiles({}).engine(BUILTIN_ECHO)


def test_each_kind_of_profile_has_an_engine():
    kinds = kinds_of(ProfileSettings)
    assert kinds is not None
    assert set(ENGINES) == set(kinds.structs.values())


def test_configured_profiles_are_added():
    profiles = make_profiles({"reviewer": EchoProfileSettings()})
    assert profiles.names == ("builtin:echo", "reviewer")
    assert profiles.engine("reviewer")


def test_an_unknown_profile_is_refused_with_the_names_there_are():
    with pytest.raises(Refused, match="builtin:echo") as caught:
        make_profiles({}).engine("nope")
    assert caught.value.code == "profile_not_found"
    assert caught.value.fields == {"profiles": ["builtin:echo"]}
