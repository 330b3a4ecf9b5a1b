import pytest

from yoi_daemon.model.boots import Death, judge

ATTEMPTS = 3


def deaths(*told: str) -> list[Death]:
    """`a` died while plugin a came up, `a b` while one of two did, `a!` of an event of a's, `` of nobody knows what."""
    found: list[Death] = []
    for one in told:
        names = one.split()
        events = {name[0]: "1" for name in names if name.endswith("!")}
        in_hand = {name[0]: name[1:] or "1" for name in names if not name.endswith("!")}
        found.append(Death(in_hand=in_hand, at_work=events))
    return found


def verdict(*told: str, limit: int = 3):
    return judge(deaths(*told), limit, lambda _name: ATTEMPTS)


def test_nothing_follows_from_less_than_three():
    assert verdict() == judge([], 3, lambda _: 3)
    for told in ((), ("a",), ("", ""), ("a", "a")):
        found = verdict(*told)
        assert (found.convicted, found.safe) == ({}, None)


@pytest.mark.parametrize(
    ("told", "careful"), [([], False), ([""], False), (["", ""], True), (["a!", "a!"], True)]
)
def test_the_boot_that_may_be_the_third_death_is_careful(told, careful):
    assert verdict(*told).is_careful is careful


@pytest.mark.parametrize(
    "told",
    [
        ["a", "a", "a"],
        ["a b", "a b", "a"],  # at once twice, then one at a time
        ["a b", "a c", "a"],
        ["", "", "a", "a", "a"],
        ["a", "a", "b!", "a"],  # what an event ended says nothing
        ["b", "b", "a", "a", "a"],
    ],
)
def test_three_in_a_row_on_one_plugin_are_its_quarantine(told):
    found = verdict(*told)
    assert list(found.convicted) == ["a"]
    assert found.convicted["a"].deaths >= 3
    assert found.safe is None


@pytest.mark.parametrize(
    "told",
    [
        ["a", "a", ""],
        ["a", "", "a"],
        ["a b", "a b", "a b"],
        ["a1", "a1", "a2"],  # it was changed between
        ["a", "a", "b"],
        ["a!", "a!", "a!"],  # an event is charged, and is dead in the end
        ["a!", "a!", "a!", "a!"],
        ["", "", "a!"],
    ],
)
def test_an_unclear_cause_convicts_no_plugin_and_is_not_yet_safe_mode(told):
    found = verdict(*told)
    assert (found.convicted, found.safe) == ({}, None)


@pytest.mark.parametrize(
    "told", [["", "", ""], ["a", "", "", ""], ["", "a!", "", ""], ["a", "a", "a", "", "", ""]]
)
def test_three_of_unknown_cause_are_safe_mode(told):
    found = verdict(*told)
    assert found.convicted == {}
    assert found.safe is not None
    assert "the last 3 starts died" in found.safe


def test_many_deaths_without_a_pattern_mean_safe_mode():
    told = ["a", "b", ""] * 2
    assert verdict(*told).safe is None
    assert "7 starts in a row" in (verdict(*told, "c").safe or "")


def test_a_plugin_that_more_events_kill_than_its_attempts_account_for_is_quarantined():
    """One poison event ends four processes, two of them seven."""
    assert verdict(*["a!"] * 7).convicted == {}
    found = verdict(*["a!"] * 8).convicted["a"]
    assert (found.deaths, found.doing) == (8, "handle events")
    assert verdict(*["a!"] * 7, "").convicted == {}
    assert verdict("a!", "", *["a!"] * 7).convicted == {}


def test_where_events_of_several_were_in_hand_each_time_none_is_to_blame():
    found = verdict(*["a! b!"] * 8)
    assert found.convicted == {}
    assert "several plugins" in (found.safe or "")
    assert list(verdict(*["a! b!"] * 7, "a!").convicted) == ["a"]


def test_the_limit_is_a_setting_and_zero_is_never():
    assert verdict("a", limit=1).convicted.keys() == {"a"}
    assert verdict("", limit=1).safe is not None
    assert verdict(limit=1).is_careful
    assert verdict("a", "a", "a", limit=4).convicted == {}
    never = verdict(*["a"] * 100, limit=0)
    assert (never.convicted, never.safe, never.is_careful) == ({}, None, False)
