"""What a scope is, what it allows, and what may be given on."""

from itertools import product

import pytest

from yoi_daemon.model.tokens import PER_PLUGIN, PERMISSIONS, allows, is_scope, may_grant


def test_the_permissions_are_those_that_were_promised():
    assert sorted(PERMISSIONS) == [
        "events:read",
        "ingress:write",
        "plugins:admin",
        "status:read",
        "tokens:admin",
        "tools:call",
        "workers:command",
        "workers:read",
    ]
    assert {"ingress:write", "tools:call"} == PER_PLUGIN


@pytest.mark.parametrize("scope", [*PERMISSIONS, "ingress:write:gen", "tools:call:github_watch"])
def test_a_scope(scope):
    assert is_scope(scope)


@pytest.mark.parametrize(
    "text",
    ["", "*", "admin", "events", "events:read:gen", "ingress:write:", "ingress:write:Gen", ":gen",
     "ingress:write:gen:gen", "ingress:write:*", " events:read", "events:read\n"],
)  # fmt: skip
def test_no_scope(text):
    assert not is_scope(text)


def test_a_narrowed_scope_is_for_its_plugin_alone():
    held = ["ingress:write:gen"]
    assert allows(held, "ingress:write", "gen")
    assert not allows(held, "ingress:write", "gene")
    assert not allows(held, "ingress:write", "ge")
    assert not allows(held, "tools:call", "gen")
    assert not allows(held, "plugins:admin", "gen")
    assert allows(held, "ingress:write")  # what is listed is narrowed by who lists it
    assert not allows(held, "tools:call")


@pytest.mark.parametrize(("held", "wanted"), [*product(PERMISSIONS, PERMISSIONS)])
def test_a_permission_allows_itself_alone(held, wanted):
    for plugin_id in (None, "gen"):
        assert allows([held], wanted, plugin_id) is (held == wanted)


def test_a_token_grants_nothing_that_it_lacks():
    assert may_grant(["ingress:write"], "ingress:write:gen")
    assert may_grant(["ingress:write:gen"], "ingress:write:gen")
    assert not may_grant(["ingress:write:gen"], "ingress:write")
    assert not may_grant(["ingress:write:gen"], "ingress:write:other")
    assert not may_grant(["tools:call"], "ingress:write:gen")
    assert not may_grant(["tokens:admin"], "events:read")


@pytest.mark.parametrize("scope", [*PERMISSIONS, *(f"{one}:gen" for one in PER_PLUGIN)])
def test_a_granted_scope_allows_nothing_that_its_grantor_lacks(scope):
    for held in [*PERMISSIONS, *(f"{one}:{name}" for one in PER_PLUGIN for name in ("gen", "x"))]:
        if may_grant([held], scope):
            for wanted, plugin_id in product(PERMISSIONS, ("gen", "x")):
                assert allows([held], wanted, plugin_id) >= allows([scope], wanted, plugin_id)
