"""The tables: every state is there, what is not in them is refused, and the page of the docs is drawn from them."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.protocol.states import (
    FEDERATION,
    ROUND,
    STANDING,
    TABLES,
    WORK,
    FederationState,
    FederationStep,
    RoundState,
    RoundStep,
    Standing,
    StandingStep,
    Table,
    WorkState,
    WorkStep,
)

ROOT = Path(__file__).parents[2]
STEPS: dict[str, Any] = {
    "standing": StandingStep,
    "work": WorkStep,
    "round": RoundStep,
    "federation": FederationStep,
}


def states(table: Table[Any, Any]) -> set[Any]:
    return set(table.rows)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_has_a_row_for_each_state_and_all_are_reachable(table: Table[Any, Any]) -> None:
    kind: Any = type(table.start)
    assert states(table) == {*kind}
    reached, fresh = {table.start}, [table.start]
    while fresh:
        for after in table.rows[fresh.pop()].values():
            if after not in reached:
                reached.add(after)
                fresh.append(after)
    assert reached == states(table)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_each_step_is_used_somewhere_and_each_other_one_is_refused_by_name(table: Table[Any, Any]) -> None:
    used = set()
    for state in states(table):
        for step in STEPS[table.name]:
            if table.may(state, step):
                used.add(step)
                assert table.step(state, step) is table.rows[state][step]
            else:
                with pytest.raises(LocalMisuse, match=f"no step '{step.value}' from state '{state.value}'"):
                    table.step(state, step)
    assert used == set(STEPS[table.name])


def test_a_round_ends_once_and_only_a_merged_one_is_committed() -> None:
    ends = {RoundState.COMMITTED, RoundState.ABORTED}
    assert {state for state in RoundState if not ROUND.rows[state]} == ends
    into_committed = [state for state in RoundState if RoundState.COMMITTED in ROUND.rows[state].values()]
    assert into_committed == [RoundState.GATING]
    assert all(ROUND.may(state, RoundStep.ABORT) for state in RoundState if state not in ends)


def test_a_stopped_machine_stays_stopped() -> None:
    assert not STANDING.rows[Standing.STOPPED]
    assert not FEDERATION.rows[FederationState.STOPPED]
    stoppable = set(FederationState) - {FederationState.NEW, FederationState.STOPPED}
    assert all(FEDERATION.may(state, FederationStep.STOP) for state in stoppable)


def test_every_connected_device_can_lose_its_connection_and_say_hello_again() -> None:
    for state in set(Standing) - {Standing.NEW, Standing.OFFLINE, Standing.STOPPED}:
        assert STANDING.step(state, StandingStep.DISCONNECT) is Standing.OFFLINE
        assert STANDING.step(state, StandingStep.CONNECT) is Standing.JOINING


def test_any_work_can_end_or_be_replaced() -> None:
    for state in set(WorkState) - {WorkState.IDLE}:
        assert WORK.step(state, WorkStep.END) is WorkState.IDLE
        assert WORK.step(state, WorkStep.TAKE) is WorkState.FETCHING


def test_the_page_of_the_docs_is_drawn_from_the_tables() -> None:
    spec = importlib.util.spec_from_file_location("draw_states", ROOT / "scripts" / "draw_states.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    stale = "docs/state-machines.md is stale: run scripts/draw_states.py"
    assert (ROOT / "docs" / "state-machines.md").read_text(encoding="utf-8") == script.page(), stale
