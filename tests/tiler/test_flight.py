"""Flights and tickets: each key once, everybody who waits gets the answer, nobody gets another's error."""

from __future__ import annotations

import threading
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from tiler.flight import Flight, Ticket


def counted(ticket: Ticket[str, int]) -> Callable[[], int]:
    """How often a ticket has called back."""
    calls: list[int] = []
    ticket.when_done(lambda: calls.append(1))
    return lambda: len(calls)


def flying(*keys: str) -> tuple[Flight[str, int], Ticket[str, int]]:
    flight: Flight[str, int] = Flight()
    ticket: Ticket[str, int] = Ticket()
    for key in keys:
        flight.join(key, ticket)
    return flight, ticket


def test_followers_are_served_when_the_leader_has_left() -> None:
    flight, leader = flying("a", "b")
    follower: Ticket[str, int] = Ticket()
    flight.join("a", follower)
    assert flight.leave(leader) == ["b"]
    assert "a" in flight and flight.wanted("a") and not flight.wanted("b")
    (ready,) = flight.settle([("a", 1)])
    assert ready is follower and follower.values == {"a": 1} and leader.values == {}


def test_a_key_that_all_have_left_is_reported_once_and_flies_until_forgotten() -> None:
    flight, leader = flying("a")
    follower: Ticket[str, int] = Ticket()
    flight.join("a", follower)
    assert flight.leave(leader) == []
    assert flight.leave(follower) == ["a"]
    assert flight.leave(follower) == flight.leave(leader) == []
    assert "a" in flight and len(flight) == 1
    flight.forget("a")
    assert "a" not in flight and len(flight) == 0


def test_who_comes_after_all_have_left_joins_the_same_flight() -> None:
    flight, leader = flying("a")
    flight.leave(leader)
    late: Ticket[str, int] = Ticket()
    flight.join("a", late)
    assert flight.wanted("a")
    assert flight.settle([("a", 1)]) == [late]


def test_a_flight_can_begin_before_anybody_waits() -> None:
    flight: Flight[str, int] = Flight()
    flight.start("a")
    assert "a" in flight and not flight.wanted("a")
    ticket: Ticket[str, int] = Ticket()
    flight.join("a", ticket)
    flight.start("a")
    assert flight.wanted("a") and flight.settle([("a", 1)]) == [ticket]


def test_a_ticket_is_ready_when_its_last_key_is_there() -> None:
    flight, ticket = flying("a", "b")
    assert flight.settle([("a", 1)]) == []
    assert flight.settle([("b", 2), ("c", 3)]) == [ticket]
    assert ticket.values == {"a": 1, "b": 2} and ticket.missing == set()
    assert flight.leave(ticket) == [] and len(flight) == 0


def test_an_error_reaches_exactly_the_tickets_of_its_keys() -> None:
    flight, both = flying("a", "b")
    only_a, only_b = Ticket[str, int](), Ticket[str, int]()
    flight.join("a", only_a)
    flight.join("b", only_b)
    error = ValueError("a is broken")
    assert flight.fail(["a"], error) == [both, only_a]
    assert both.error is only_a.error is error and only_b.error is None
    assert flight.settle([("b", 2)]) != [] and only_b.values == {"b": 2}


def test_the_first_error_counts() -> None:
    flight, ticket = flying("a", "b")
    first, second = ValueError("first"), ValueError("second")
    assert flight.fail(["a"], first) == [ticket]
    assert flight.fail(["b"], second) == []
    assert ticket.error is first


def test_a_failed_ticket_that_leaves_gives_up_its_other_keys() -> None:
    flight, ticket = flying("a", "b")
    flight.fail(["a"], ValueError())
    assert flight.leave(ticket) == ["b"] and ticket.missing == set()


def test_fail_all_ends_every_flight() -> None:
    flight, ticket = flying("a", "b")
    other: Ticket[str, int] = Ticket()
    flight.join("c", other)
    assert flight.fail_all(ValueError()) == [ticket, other]
    assert len(flight) == 0


def test_a_ticket_is_finished_exactly_once() -> None:
    flight, ticket = flying("a", "b")
    calls = counted(ticket)
    flight.fail(["a"], ValueError())
    ticket.finish()
    for ready in flight.settle([("b", 2)]):
        ready.finish()
    ticket.finish()
    assert calls() == 1


def test_many_threads_finish_a_ticket_once() -> None:
    for _ in range(50):
        _, ticket = flying("a")
        calls = counted(ticket)
        start = threading.Barrier(4)

        def finish(ticket: Ticket[str, int] = ticket, start: threading.Barrier = start) -> None:
            start.wait()
            ticket.finish()

        threads = [threading.Thread(target=finish) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert calls() == 1


def test_who_registers_after_the_end_is_called_at_once() -> None:
    _, ticket = flying("a")
    assert not ticket.done and not ticket.wait(0)
    ticket.finish()
    assert ticket.done and ticket.wait(0)
    assert counted(ticket)() == 1


def test_a_callback_registered_while_the_ticket_ends_is_called_once() -> None:
    for _ in range(200):
        _, ticket = flying("a")
        start = threading.Barrier(2)

        def finish(ticket: Ticket[str, int] = ticket, start: threading.Barrier = start) -> None:
            start.wait()
            ticket.finish()

        thread = threading.Thread(target=finish)
        thread.start()
        start.wait()
        calls = counted(ticket)
        thread.join()
        assert calls() == 1


KEYS = st.sampled_from("abcd")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(0, 4), KEYS),
        st.tuples(st.just("leave"), st.integers(0, 4), st.none()),
        st.tuples(st.just("settle"), st.none(), KEYS),
        st.tuples(st.just("fail"), st.none(), KEYS),
    ),
    max_size=40,
)


@given(STEPS)
def test_whatever_happens_every_ticket_gets_what_is_its_own(steps: list[tuple[str, int | None, str | None]]) -> None:
    """Against a model that knows only who waits for what."""
    flight: Flight[str, int] = Flight()
    tickets = [Ticket[str, int]() for _ in range(5)]
    waits: dict[str, set[int]] = {}
    got: list[set[str]] = [set() for _ in tickets]
    failed: set[int] = set()
    for action, number, key in steps:
        if action == "join" and number not in waits.get(str(key), ()) and key not in got[int(number or 0)]:
            flight.join(str(key), tickets[int(number or 0)])
            waits.setdefault(str(key), set()).add(int(number or 0))
        elif action == "leave":
            mine = {key for key, members in waits.items() if number in members}
            for key in mine:
                waits[key].discard(int(number or 0))
            left = flight.leave(tickets[int(number or 0)])
            assert set(left) == {key for key in mine if not waits[key]} and len(left) == len(set(left))
            for key in left:
                flight.forget(key)
                del waits[key]
        elif action in ("settle", "fail"):
            members = waits.pop(str(key), set())
            if action == "settle":
                ready = flight.settle([(str(key), 7)])
                for member in members:
                    got[member].add(str(key))
                done = {member for member in members if not any(member in others for others in waits.values())}
                assert {tickets.index(ticket) for ticket in ready} == done
            else:
                ready = flight.fail([str(key)], ValueError(key))
                assert {tickets.index(ticket) for ticket in ready} == members - failed
                failed |= members
    assert len(flight) == len(waits)
    for number, ticket in enumerate(tickets):
        assert set(ticket.values) == got[number] and (ticket.error is not None) == (number in failed)
        assert ticket.missing == {key for key, members in waits.items() if number in members}
