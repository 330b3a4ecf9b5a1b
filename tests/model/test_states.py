from typing import get_args

import pytest

from yoi_daemon.model.states import (
    SERVICE_TRANSITIONS,
    WORKER_TERMINAL,
    WORKER_TRANSITIONS,
    Machine,
    ServiceState,
    UndefinedTransitionError,
    WorkerState,
)

TABLES = [(SERVICE_TRANSITIONS, ServiceState), (WORKER_TRANSITIONS, WorkerState)]


@pytest.mark.parametrize(("table", "states"), TABLES)
def test_a_table_has_exactly_the_states_there_are(table, states):
    assert set(table) == set(get_args(states))
    assert set().union(*table.values()) <= set(table)


@pytest.mark.parametrize(("table", "states"), TABLES)
def test_a_machine_moves_along_its_table_and_nowhere_else(table, states):
    for start in table:
        for to in table:
            machine = Machine(table, start)
            if to in table[start]:
                assert machine.move(to) == start
                assert machine.state == to
            else:
                with pytest.raises(UndefinedTransitionError):
                    machine.move(to)
                assert machine.state == start


def test_every_worker_state_leads_to_an_end():
    assert frozenset({"stopped", "failed"}) == WORKER_TERMINAL
    reached = set(WORKER_TERMINAL)
    for _ in WORKER_TRANSITIONS:
        reached |= {state for state, to in WORKER_TRANSITIONS.items() if to & reached}
    assert reached == set(WORKER_TRANSITIONS)


def test_every_service_state_can_be_stopped_and_started_again():
    def reachable(start):
        found, edge = {start}, {start}
        while edge:
            edge = set().union(*(SERVICE_TRANSITIONS[state] for state in edge)) - found
            found |= edge
        return found

    for state in SERVICE_TRANSITIONS:
        assert {"stopped", "running"} <= reachable(state)
