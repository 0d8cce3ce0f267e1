"""Which block comes next, as a function of what waits: no threads, no clock, no arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiler import windows
from tiler.values import Cell
from tiler.waiting import (
    KNOWN_CLIENTS,
    LEAST_SECONDS,
    MIN_WINDOW_PIXELS,
    MOST_SECONDS,
    PANNING,
    PANNING_SECONDS,
    PATIENCE,
    RESTLESS,
    RESTLESS_SECONDS,
    VIEWPORT_GAP,
    Job,
    Origin,
    Waiting,
)
from tiler.windows import (
    FIRST_PIXELS,
    MAX_PRICE,
    MIN_WAITING_SHARE,
    MIN_WHOLE_SHARE,
    SLACK,
    Block,
    Shape,
    fitted,
    form,
)

CELLS = st.builds(Cell, st.integers(0, 11), st.integers(0, 11))
SHAPES = st.builds(
    Shape,
    cell=st.sampled_from([16, 32, 64]),
    halo=st.sampled_from([0, 16, 48]),
    max_pixels=st.sampled_from([64 * 64, 256 * 256, 512 * 512, 4096 * 4096]),
    single=st.booleans(),
)
WIDE = Shape(cell=32, halo=16, max_pixels=4096 * 4096)


def rectangle(top: int, left: int, rows: int, cols: int) -> list[Cell]:
    return [Cell(row, col) for row in range(top, top + rows) for col in range(left, left + cols)]


def window_pixels(block: Block, shape: Shape) -> int:
    return (block.rows * shape.cell + 2 * shape.halo) * (block.cols * shape.cell + 2 * shape.halo)


# form


LIMITS = st.sampled_from([None, 100 * 100, 300 * 300])


@given(st.sets(CELLS, min_size=1), st.sets(CELLS), SHAPES, LIMITS)
def test_a_block_holds_a_seed_cell_and_keeps_to_the_limits(
    seed: set[Cell], others: set[Cell], shape: Shape, limit: int | None
) -> None:
    block = form(seed | others, seed, shape, max_pixels=limit)
    inside = set(block.cells())
    assert inside & seed
    assert len(inside) == block.rows * block.cols
    assert shape.fits(block.rows, block.cols)
    if shape.single:
        assert len(inside) == 1
    elif len(inside) > 1:
        assert window_pixels(block, shape) <= shape.max_pixels


def price(strip: set[Cell], waiting: set[Cell], shape: Shape) -> float:
    """What a strip costs, in what its cells that wait would cost as a window of their own."""
    wanted = len(strip & waiting)
    if wanted == len(strip):
        return 0.0
    alone = (wanted * shape.cell + 2 * shape.halo) * (shape.cell + 2 * shape.halo)
    return len(strip) * shape.cell**2 / alone if wanted else float("inf")


@given(st.sets(CELLS), SHAPES)
def test_a_block_grows_until_no_strip_is_worth_it(others: set[Cell], shape: Shape) -> None:
    seed = Cell(5, 5)
    waiting = others | {seed}
    block = form(waiting, [seed], shape)
    for side in ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)):
        up, left, down, right = side
        grown = Block(
            Cell(block.first.row - up, block.first.col - left), Cell(block.last.row + down, block.last.col + right)
        )
        strip = set(grown.cells()) - set(block.cells())
        assert price(strip, waiting, shape) > MAX_PRICE or not shape.fits(grown.rows, grown.cols)


@given(st.sets(CELLS, min_size=1), st.sets(CELLS), SHAPES)
def test_every_strip_that_a_block_grows_by_is_worth_it(seed: set[Cell], others: set[Cell], shape: Shape) -> None:
    waiting = seed | others
    block = windows._start(sorted(seed), shape)
    assert len(set(block.cells()) & seed) >= MIN_WAITING_SHARE * block.rows * block.cols
    bands = windows._bands(block, waiting, shape)
    while (grown := windows._larger(block, waiting, shape, bands or windows._squarer(block))) is not None:
        strip = set(grown.cells()) - set(block.cells())
        assert set(block.cells()) < set(grown.cells()) and len(strip) in (block.rows, block.cols)
        assert price(strip, waiting, shape) <= MAX_PRICE
        block = grown
    assert block == form(waiting, seed, shape)


def test_without_a_halo_nothing_is_inferred_for_nobody() -> None:
    bare = Shape(cell=32, halo=0, max_pixels=4096 * 4096)
    waiting = rectangle(0, 0, 5, 5) + rectangle(0, 5, 4, 1)
    assert form(set(waiting), rectangle(0, 0, 5, 5), bare) == Block(Cell(0, 0), Cell(4, 4))


def test_the_larger_the_halo_the_more_is_filled_up() -> None:
    """One cell beside a row of five: alone it costs a halo, in the row four cells that nobody waits for."""
    waiting = rectangle(0, 0, 5, 5) + [Cell(2, 5)]
    grown, kept = Block(Cell(0, 0), Cell(4, 5)), Block(Cell(0, 0), Cell(4, 4))
    blocks = {halo: form(set(waiting), rectangle(0, 0, 5, 5), Shape(32, halo, 4096 * 4096)) for halo in (8, 16, 48, 96)}
    # (32 + 2 * 48)^2 / 2 are eight cells, (32 + 2 * 16)^2 / 2 are two.
    assert blocks == {8: kept, 16: kept, 48: grown, 96: grown}


def test_a_wide_view_is_cut_into_upright_bands_that_leave_whole_rectangles() -> None:
    """Three tiles by five of which the middle one is first: the middle column, then what is left and right of it."""
    shape = Shape(cell=32, halo=48, max_pixels=4096 * 4096)
    waiting: Waiting[FakeLayer] = Waiting()
    layer = FakeLayer("map", shape)
    for row, col in [(1, 2), *((row, col) for row in range(3) for col in range(5) if (row, col) != (1, 2))]:
        waiting.add(layer, False, rectangle(8 * row, 8 * col, 8, 8), Origin("ann"), 0.0)
    rate = 375_000 / LEAST_SECONDS
    blocks: list[Block] = []
    while (job := waiting.next(0.3 * len(blocks), rate)) is not None:
        blocks.append(job.block)
    assert blocks[0].rows == 24 and set(rectangle(8, 16, 8, 8)) <= set(blocks[0].cells())
    # Never a rest of a few cells that would pay a halo of its own.
    assert min(block.rows for block in blocks) == 24 and min(block.cols for block in blocks) >= 7
    assert sum(block.rows * block.cols for block in blocks) == 24 * 40


def test_neighbouring_tiles_that_wait_become_one_window() -> None:
    viewport = rectangle(0, 0, 24, 40)
    assert form(set(viewport), rectangle(8, 8, 8, 8), WIDE) == Block(Cell(0, 0), Cell(23, 39))


def test_a_window_stays_square_rather_than_long() -> None:
    block = form(set(rectangle(0, 0, 100, 100)), [Cell(50, 50)], Shape(32, 16, 512 * 512))
    assert abs(block.rows - block.cols) <= 1 and block.rows >= 14


def test_a_seed_with_holes_starts_with_a_rectangle_inside_of_it() -> None:
    corner = [Cell(0, 0), Cell(0, 1), Cell(1, 0), Cell(1, 1), Cell(9, 9)]
    assert form(set(corner), corner, WIDE) == Block(Cell(0, 0), Cell(1, 1))


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_tile_larger_than_a_window_is_cut_into_blocks_that_are_not_thin(rows: int, cols: int) -> None:
    shape = Shape(cell=64, halo=16, max_pixels=4096 * 4096)
    block = form(set(rectangle(5, 5, rows, cols)), rectangle(5, 5, rows, cols), shape, max_pixels=FIRST_PIXELS)
    assert window_pixels(block, shape) <= FIRST_PIXELS
    assert min(block.rows, block.cols) >= min(rows, cols, 3)


# halves


@given(CELLS, st.integers(1, 9), st.integers(1, 9))
def test_halves_are_the_block_and_nothing_twice(first: Cell, rows: int, cols: int) -> None:
    block = Block(first, Cell(first.row + rows - 1, first.col + cols - 1))
    halves = block.halves()
    if rows == cols == 1:
        assert halves is None
        return
    assert halves is not None
    one, two = (list(half.cells()) for half in halves)
    assert one and two and sorted(one + two) == sorted(block.cells())
    assert abs(len(one) - len(two)) <= min(rows, cols)
    assert max(half.rows for half in halves) <= rows and max(half.cols for half in halves) <= cols


# Waiting


@dataclass(frozen=True)
class FakeLayer:
    revision: str
    shape: Shape = WIDE


SMALL = Shape(cell=32, halo=0, max_pixels=64 * 64)
ALONE = Shape(cell=32, halo=0, max_pixels=1, single=True)


def drained(waiting: Waiting[FakeLayer], now: float = 0.0, rate: float = 1e9) -> list[Job[FakeLayer]]:
    jobs = []
    while (job := waiting.next(now, rate)) is not None:
        jobs.append(job)
    return jobs


ASKS = st.lists(
    st.tuples(
        st.sampled_from(["one", "two"]),
        st.booleans(),
        st.sampled_from(["ann", "bob", "eve"]),
        st.booleans(),
        st.integers(0, 2),
        st.sets(CELLS, min_size=1, max_size=12),
        st.floats(0, 1),
    ),
    max_size=8,
)


@given(ASKS, st.data())
def test_what_waits_is_handed_out_once_and_what_was_dropped_never(
    asks: list[tuple[str, bool, str, bool, int, set[Cell], float]], data: st.DataObject
) -> None:
    """Blocks are taken, cells dropped and asked for in any order: nothing is lost, nothing comes twice."""
    waiting: Waiting[FakeLayer] = Waiting()
    expected: set[tuple[str, bool, Cell]] = set()
    now = 0.0

    def take() -> bool:
        job = waiting.next(now, data.draw(st.sampled_from([0.0, 1e5, 1e9])))
        if job is None:
            return False
        mine = {(job.layer.revision, job.probabilities, cell) for cell in job.taken}
        assert mine and mine <= expected
        assert job.taken <= set(job.block.cells())
        # Whatever waits inside of the block is taken with it, and nothing else of the stack.
        around = {(job.layer.revision, job.probabilities, cell) for cell in job.block.cells()}
        assert mine == expected & around
        expected.difference_update(mine)
        return True

    for revision, probabilities, client, export, level, cells, later in asks:
        now += later
        new = {cell for cell in cells if (revision, probabilities, cell) not in expected}
        waiting.add(FakeLayer(revision, SMALL), probabilities, new, Origin(client, level, export), now)
        expected |= {(revision, probabilities, cell) for cell in new}
        assert len(waiting) == len(expected)
        for key in sorted(expected):
            if data.draw(st.integers(0, 3)) == 0:
                assert waiting.holds(*key) and waiting.drop(*key)
                assert not waiting.drop(*key) and not waiting.holds(*key)
                expected.discard(key)
        if data.draw(st.booleans()):
            take()
    while take():
        pass
    assert not expected and len(waiting) == 0
    assert not any(waiting._clients) and not waiting._layers and not waiting._cells


def asked(waiting: Waiting[FakeLayer], client: str, cells: Iterable[Cell], now: float, **options: object) -> None:
    waiting.add(FakeLayer("map", ALONE), False, cells, Origin(client, **options), now)  # type: ignore[arg-type]


def order(waiting: Waiting[FakeLayer]) -> list[int]:
    """Rows of the blocks as they come: the tests give every ask a row of its own."""
    return [job.block.first.row for job in drained(waiting)]


def test_the_newest_viewport_comes_first_and_inside_of_it_the_oldest_tile() -> None:
    waiting: Waiting[FakeLayer] = Waiting()
    for row, now in ((0, 0.0), (1, 0.01), (2, 1.0), (3, 1.0 + VIEWPORT_GAP / 2)):
        asked(waiting, "ann", rectangle(row, 0, 1, 2), now)
    assert order(waiting) == [2, 2, 3, 3, 0, 0, 1, 1]


def test_what_is_asked_for_after_an_answer_is_the_rest_of_the_viewport() -> None:
    """A slow network answers every other second; the connection that comes free asks for the next tile of the view.

    Were that a viewport of its own, the newest would always come first, and the oldest tile never.
    """
    waiting: Waiting[FakeLayer] = Waiting()
    ann = Origin("ann")
    for row in range(2):
        asked(waiting, "ann", [Cell(row, 0)], 0.0)
    served = []
    for number in range(2, 8):
        job = waiting.next()
        assert job is not None
        served.append(job.block.first.row)
        waiting.answered(ann, 2.0 * number)
        asked(waiting, "ann", [Cell(number, 0)], 2.0 * number + 0.01)
    assert served == [0, 1, 2, 3, 4, 5]


def test_another_zoom_is_another_viewport_however_soon() -> None:
    waiting: Waiting[FakeLayer] = Waiting()
    for row, level in ((0, 14), (1, 14), (2, 15), (3, 15)):
        asked(waiting, "ann", [Cell(row, 0)], 0.0, level=level)
    assert order(waiting) == [2, 3, 0, 1]


def test_two_clients_take_turns_even_when_one_asks_for_much_more() -> None:
    waiting: Waiting[FakeLayer] = Waiting()
    for row in range(50):
        asked(waiting, "ann", [Cell(row, 0)], 0.0)
    for row in range(100, 103):
        asked(waiting, "bob", [Cell(row, 0)], 0.0)
    assert order(waiting)[:7] == [0, 100, 1, 101, 2, 102, 3]


def test_a_client_that_comes_back_again_and_again_gets_no_more_than_its_turn() -> None:
    waiting: Waiting[FakeLayer] = Waiting()
    for row in range(20):
        asked(waiting, "ann", [Cell(row, 0)], 0.0)
    turns = []
    for number in range(6):
        # Bob asks for something new whenever he has been served.
        asked(waiting, "bob", [Cell(100 + number, 0)], float(number))
        for _ in range(2):
            job = waiting.next()
            assert job is not None
            turns.append("ann" if job.block.first.row < 100 else "bob")
    assert turns.count("ann") == turns.count("bob") == 6


def test_exports_get_what_is_left() -> None:
    waiting: Waiting[FakeLayer] = Waiting()
    asked(waiting, "export", [Cell(row, 0) for row in range(100, 103)], 0.0, export=True)
    assert order(waiting)[:1] == [100]
    waiting = Waiting()
    asked(waiting, "export", [Cell(row, 0) for row in range(100, 103)], 0.0, export=True)
    for row in range(5):
        asked(waiting, f"client {row}", [Cell(row, 0)], 1.0)
    seen = [job.block.first.row for _ in range(5) if (job := waiting.next()) is not None]
    asked(waiting, "late", [Cell(50, 0)], 2.0)
    assert seen == [0, 1, 2, 3, 4]
    assert order(waiting) == [50, 100, 101, 102]


def test_what_an_export_has_queued_comes_as_early_as_a_map_that_wants_it_too() -> None:
    waiting: Waiting[FakeLayer] = Waiting()
    asked(waiting, "export", [Cell(row, 0) for row in range(100)], 0.0, export=True)
    asked(waiting, "other", [Cell(200, 0)], 0.0)
    asked(waiting, "ann", [Cell(70, 0)], 1.0)
    assert len(waiting) == 101
    assert order(waiting)[:3] == [200, 70, 0]


def test_layers_and_kinds_are_never_merged() -> None:
    waiting: Waiting[FakeLayer] = Waiting()
    for revision, probabilities in (("one", False), ("one", True), ("two", False)):
        waiting.add(FakeLayer(revision), probabilities, rectangle(0, 0, 4, 4), Origin("ann"), 0.0)
    jobs = drained(waiting)
    assert [(job.layer.revision, job.probabilities) for job in jobs] == [("one", False), ("one", True), ("two", False)]
    assert all(job.block == Block(Cell(0, 0), Cell(3, 3)) for job in jobs)


def test_another_clients_tiles_are_merged_into_the_window() -> None:
    waiting: Waiting[FakeLayer] = Waiting()
    waiting.add(FakeLayer("map"), False, rectangle(0, 0, 4, 4), Origin("ann"), 0.0)
    waiting.add(FakeLayer("map"), False, rectangle(0, 4, 4, 4), Origin("bob"), 0.0)
    (job,) = drained(waiting)
    assert job.block == Block(Cell(0, 0), Cell(3, 7)) and len(job.taken) == 32


# As large as a window of 8 x 12 cells; SLACK lets it have 15 columns, not 16.
FULL = Shape(cell=32, halo=16, max_pixels=4096 * 4096), (8 * 32 + 32) * (12 * 32 + 32)


@pytest.mark.parametrize(
    ("requests", "waiting", "found"),
    [
        # Of two tiles side by side the block holds one and a half, and both are too large: it ends with the first.
        ([rectangle(0, 0, 8, 8), rectangle(0, 8, 8, 8)], None, Block(Cell(0, 0), Cell(7, 7))),
        # Less than MIN_WHOLE_SHARE of it would be left.
        ([rectangle(0, 0, 8, 4), rectangle(0, 4, 8, 12)], None, Block(Cell(0, 0), Cell(7, 11))),
        # What others have inferred already does not count.
        ([rectangle(0, 0, 8, 8), rectangle(0, 8, 8, 8)], rectangle(0, 0, 8, 12), Block(Cell(0, 0), Cell(7, 11))),
        # None ends in it.
        ([rectangle(0, 0, 9, 16)], None, Block(Cell(0, 0), Cell(7, 11))),
        # Cells that two tiles share belong to both.
        ([rectangle(0, 0, 8, 9), rectangle(0, 8, 8, 9)], None, Block(Cell(0, 0), Cell(7, 8))),
        # A little larger, and both are whole.
        ([rectangle(0, 0, 8, 7), rectangle(0, 7, 8, 6)], None, Block(Cell(0, 0), Cell(7, 12))),
        # As little larger, but hardly a half of the second is inside.
        ([rectangle(0, 0, 8, 11), rectangle(0, 11, 8, 3)], None, Block(Cell(0, 0), Cell(7, 10))),
        # Around both there would be too much that nobody waits for.
        ([rectangle(0, 0, 8, 9), rectangle(6, 9, 2, 4)], None, Block(Cell(0, 0), Cell(7, 8))),
        # Nothing whole inside, but one nearly.
        ([rectangle(0, 0, 8, 13)], None, Block(Cell(0, 0), Cell(7, 12))),
    ],
)
def test_a_window_ends_where_requests_do(requests: list[list[Cell]], waiting: list[Cell] | None, found: Block) -> None:
    waits = {cell for cells in requests for cell in cells} if waiting is None else set(waiting)
    assert fitted(Block(Cell(0, 0), Cell(7, 11)), requests[0], requests, waits, *FULL) == found


def test_a_window_that_ends_with_others_requests_holds_something_of_whose_turn_it_is() -> None:
    mine, theirs = rectangle(0, 8, 20, 20), rectangle(0, 0, 8, 8)
    block = Block(Cell(0, 0), Cell(7, 11))
    assert fitted(block, mine, [mine, theirs], {*mine, *theirs}, *FULL) == block
    assert fitted(block, theirs, [mine, theirs], {*mine, *theirs}, *FULL) == Block(Cell(0, 0), Cell(7, 7))


@given(st.lists(st.sets(CELLS, min_size=1), min_size=1, max_size=6), SHAPES, LIMITS)
def test_a_window_that_ends_with_requests_keeps_to_the_limits(
    requests: list[set[Cell]], shape: Shape, limit: int | None
) -> None:
    waiting, seed = set[Cell]().union(*requests), requests[0]
    block = form(waiting, seed, shape, max_pixels=limit)
    end = fitted(block, seed, requests, waiting, shape, limit)
    inside = set(end.cells())
    assert inside & seed and end.rows * end.cols >= MIN_WHOLE_SHARE * block.rows * block.cols
    if end != block and len(inside) > 1:
        assert not shape.single
        assert window_pixels(end, shape) <= min(shape.max_pixels, SLACK * (limit or shape.max_pixels))
        assert any(cells <= inside for cells in requests)


def test_whole_tiles_go_first_and_the_rest_follows() -> None:
    waiting: Waiting[FakeLayer] = Waiting()
    for left in (0, 16, 32):
        waiting.add(FakeLayer("map"), False, rectangle(0, left, 16, 16), Origin("ann"), 0.0)
    jobs = drained(waiting, rate=1e6)
    assert len(jobs) > 1
    assert all(job.block.first.col % 16 == 0 and job.block.last.col % 16 == 15 for job in jobs)
    assert sum(len(job.taken) for job in jobs) == 3 * 16 * 16


def test_while_the_speed_is_not_known_windows_stay_small() -> None:
    waiting: Waiting[FakeLayer] = Waiting()
    for left in (0, 8, 16, 24):
        waiting.add(FakeLayer("map"), False, rectangle(0, left, 24, 8), Origin("ann"), 0.0)
    job = waiting.next()
    assert job is not None and window_pixels(job.block, WIDE) <= max(FIRST_PIXELS, 800 * 288)
    rest = waiting.next(0.0, 1e9)
    assert rest is not None
    # What the first one left is an L: the larger arm comes whole.
    left = set(rectangle(0, 0, 24, 32)) - job.taken
    assert rest.taken <= left and len(rest.taken) > 0.7 * len(left)


def seconds_of_next(waiting: Waiting[FakeLayer], now: float, rate: float) -> float:
    """What the next window takes on a device of that many pixels per second, of a client with plenty to do."""
    job = waiting.next(now, rate)
    assert job is not None
    return window_pixels(job.block, WIDE) / rate


def test_a_window_takes_the_longer_the_longer_its_client_has_stayed() -> None:
    rate = 4e6
    waiting: Waiting[FakeLayer] = Waiting()
    took = []
    for number, age in enumerate((0.0, 0.2, 60.0)):
        waiting.add(FakeLayer(f"map {number}"), False, rectangle(0, 0, 100, 100), Origin(f"client {number}"), 0.0)
        took.append(seconds_of_next(waiting, age, rate))
        waiting.clear()
    fresh, stayed, long = took
    assert 0.8 * LEAST_SECONDS <= fresh <= LEAST_SECONDS
    assert fresh < stayed <= 0.2 * PATIENCE
    assert 0.8 * MOST_SECONDS <= long <= MOST_SECONDS


def test_who_has_dropped_something_lately_gets_smaller_windows_for_a_while() -> None:
    rate = 4e6
    took = []
    for age in (0.0, RESTLESS - 0.1, RESTLESS + 0.1):
        waiting: Waiting[FakeLayer] = Waiting()
        ann = Origin("ann")
        waiting.add(FakeLayer("map"), False, rectangle(0, 0, 100, 100), ann, 0.0)
        waiting.dropped(ann, 0.0)
        took.append(seconds_of_next(waiting, age, rate))
    just, lately, long_ago = took
    assert just <= PANNING_SECONDS < lately <= RESTLESS_SECONDS < long_ago <= MOST_SECONDS


def test_who_has_just_dropped_something_comes_last_and_gets_small_windows() -> None:
    rate = 4e6
    waiting: Waiting[FakeLayer] = Waiting()
    ann, bob = Origin("ann"), Origin("bob")
    waiting.add(FakeLayer("ann"), False, rectangle(0, 0, 100, 100), ann, 0.0)
    waiting.dropped(ann, 1.0)
    waiting.add(FakeLayer("ann"), False, rectangle(200, 0, 100, 100), ann, 1.0)
    waiting.add(FakeLayer("bob"), False, rectangle(0, 0, 10, 10), bob, 1.0)
    first = waiting.next(1.0, rate)
    assert first is not None and first.layer.revision == "bob"
    assert seconds_of_next(waiting, 1.0, rate) <= PANNING_SECONDS
    # At rest again.
    assert seconds_of_next(waiting, 1.0 + 2 * PANNING, rate) > 0.8 * LEAST_SECONDS


def test_a_client_is_known_to_pan_also_while_nothing_of_it_waits() -> None:
    waiting: Waiting[FakeLayer] = Waiting()
    ann = Origin("ann")
    waiting.add(FakeLayer("map"), False, [Cell(0, 0)], ann, 0.0)
    waiting.drop("map", False, Cell(0, 0))
    waiting.dropped(ann, 0.1)
    waiting.add(FakeLayer("map"), False, rectangle(0, 0, 100, 100), ann, 0.1)
    assert seconds_of_next(waiting, 0.1, 4e6) <= PANNING_SECONDS


def test_only_so_many_clients_are_remembered() -> None:
    waiting: Waiting[FakeLayer] = Waiting()
    for number in range(KNOWN_CLIENTS + 10):
        waiting.dropped(Origin(f"client {number}"), 0.0)
    assert len(waiting._known) == KNOWN_CLIENTS


@pytest.mark.slow
def test_a_slow_device_is_given_no_window_below_the_least_size() -> None:
    waiting: Waiting[FakeLayer] = Waiting()
    waiting.add(FakeLayer("map"), False, rectangle(0, 0, 100, 100), Origin("ann"), 0.0)
    job = waiting.next(0.0, 1000.0)
    assert job is not None and 0.7 * MIN_WINDOW_PIXELS <= window_pixels(job.block, WIDE) <= MIN_WINDOW_PIXELS


def test_asks_that_were_all_dropped_are_forgotten() -> None:
    """Bursts that are aborted before any window is formed leave nothing behind."""
    waiting: Waiting[FakeLayer] = Waiting()
    for number in range(100):
        asked(waiting, f"client {number % 7}", rectangle(number, 0, 1, 5), float(number))
        for cell in rectangle(number, 0, 1, 5):
            waiting.drop("map", False, cell)
    assert len(waiting) == 0 and not any(waiting._clients)
    assert waiting.next() is None


def test_clear_forgets_everything() -> None:
    waiting: Waiting[FakeLayer] = Waiting()
    asked(waiting, "ann", rectangle(0, 0, 3, 3), 0.0)
    asked(waiting, "export", rectangle(5, 0, 3, 3), 0.0, export=True)
    waiting.clear()
    assert len(waiting) == 0 and waiting.next() is None
