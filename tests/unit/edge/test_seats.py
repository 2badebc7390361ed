from __future__ import annotations

import asyncio

import pytest

from sled_edge.seats import Seats, SeatsTaken


async def _hold(seats: Seats, leave: asyncio.Event, order: list[int], number: int) -> None:
    async with seats.seat():
        order.append(number)
        await leave.wait()


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_first_come_first_served() -> None:
    seats = Seats(lambda: 1, max_waiting=8, wait_seconds=10)
    order: list[int] = []
    gates = [asyncio.Event() for _ in range(4)]
    tasks = [asyncio.create_task(_hold(seats, gates[n], order, n)) for n in range(4)]
    for number, gate in enumerate(gates):
        await _settle()
        assert order == list(range(number + 1))
        assert seats.taken == 1
        gate.set()
    await asyncio.gather(*tasks)
    assert seats.taken == seats.waiting == 0


async def test_a_full_line_is_refused_at_once() -> None:
    seats = Seats(lambda: 1, max_waiting=1, wait_seconds=10)
    leave = asyncio.Event()
    tasks = [asyncio.create_task(_hold(seats, leave, [], n)) for n in range(2)]
    await _settle()
    with pytest.raises(SeatsTaken, match="line is full"):
        async with seats.seat():
            pass
    leave.set()
    await asyncio.gather(*tasks)


async def test_a_wait_that_is_too_long_is_refused() -> None:
    seats = Seats(lambda: 1, max_waiting=1, wait_seconds=0.001)
    async with seats.seat():
        with pytest.raises(SeatsTaken, match="in time"):
            async with seats.seat():
                pass
    assert seats.taken == seats.waiting == 0


async def test_a_cancelled_wait_leaves_no_trace() -> None:
    seats = Seats(lambda: 1, max_waiting=2, wait_seconds=10)
    leave = asyncio.Event()
    order: list[int] = []
    holder = asyncio.create_task(_hold(seats, leave, order, 0))
    await _settle()
    waiter = asyncio.create_task(_hold(seats, leave, order, 1))
    last = asyncio.create_task(_hold(seats, leave, order, 2))
    await _settle()
    waiter.cancel()
    await asyncio.wait((waiter,))
    leave.set()
    await asyncio.gather(holder, last)
    assert order == [0, 2]
    assert seats.taken == seats.waiting == 0


async def test_a_seat_given_to_one_who_leaves_goes_to_the_next() -> None:
    seats = Seats(lambda: 1, max_waiting=2, wait_seconds=10)
    leave = asyncio.Event()
    order: list[int] = []
    holder = asyncio.create_task(_hold(seats, leave, order, 0))
    await _settle()
    waiter = asyncio.create_task(_hold(seats, asyncio.Event(), order, 1))
    last = asyncio.create_task(_hold(seats, leave, order, 2))
    await _settle()
    leave.set()
    await asyncio.wait((holder,))
    # The seat is the waiter's by now, which has not run since.
    waiter.cancel()
    await asyncio.gather(last)
    assert 2 in order
    assert seats.taken == 0


async def test_a_limit_that_shrinks_holds_from_the_next_seat_on() -> None:
    limit = 2
    seats = Seats(lambda: limit, max_waiting=4, wait_seconds=10)
    leave = [asyncio.Event() for _ in range(3)]
    order: list[int] = []
    tasks = [asyncio.create_task(_hold(seats, leave[n], order, n)) for n in range(3)]
    await _settle()
    assert order == [0, 1]
    limit = 1
    leave[0].set()
    await _settle()
    assert order == [0, 1]
    leave[1].set()
    await _settle()
    assert order == [0, 1, 2]
    leave[2].set()
    await asyncio.gather(*tasks)
    await seats.wait_empty()
