"""Which block comes next, as a function of what waits: no threads, no clock, no arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from tiler import windows
from tiler.values import Cell
from tiler.waiting import VIEWPORT_GAP, Job, Origin, Waiting
from tiler.windows import FIRST_PIXELS, MIN_WAITING_SHARE, Block, Shape, form

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


@given(st.sets(CELLS, min_size=1), st.sets(CELLS), SHAPES, st.booleans())
def test_a_block_holds_a_seed_cell_and_keeps_to_the_limits(
    seed: set[Cell], others: set[Cell], shape: Shape, first: bool
) -> None:
    block = form(seed | others, seed, shape, first=first)
    inside = set(block.cells())
    assert inside & seed
    assert len(inside) == block.rows * block.cols
    assert shape.fits(block.rows, block.cols)
    if shape.single:
        assert len(inside) == 1
    elif len(inside) > 1:
        assert window_pixels(block, shape) <= shape.max_pixels


@given(st.sets(CELLS, min_size=1), st.sets(CELLS), SHAPES, st.booleans())
def test_hardly_a_cell_is_inferred_that_does_not_wait(
    seed: set[Cell], others: set[Cell], shape: Shape, first: bool
) -> None:
    """The seed's rectangle and every strip that it grows by keep the share, so the whole does."""
    waiting = seed | others
    inside = set(form(waiting, seed, shape, first=first).cells())
    assert len(inside & waiting) >= MIN_WAITING_SHARE * len(inside)


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
        worth = len(strip & waiting) >= MIN_WAITING_SHARE * len(strip)
        assert not (worth and shape.fits(grown.rows, grown.cols))


@given(st.sets(CELLS, min_size=1), st.sets(CELLS), SHAPES)
def test_every_strip_that_a_block_grows_by_keeps_the_share(seed: set[Cell], others: set[Cell], shape: Shape) -> None:
    waiting = seed | others
    block = windows._largest_inside(sorted(seed), shape)
    assert len(set(block.cells()) & seed) >= MIN_WAITING_SHARE * block.rows * block.cols
    while (grown := windows._best_growth(block, waiting, shape)) is not None:
        strip = set(grown.cells()) - set(block.cells())
        assert set(block.cells()) < set(grown.cells()) and len(strip) in (block.rows, block.cols)
        assert len(strip & waiting) >= MIN_WAITING_SHARE * len(strip)
        block = grown
    assert block == form(waiting, seed, shape)


def test_a_strip_is_taken_from_sixty_percent_on() -> None:
    five = rectangle(0, 0, 5, 5)
    enough, too_few = five + rectangle(0, 5, 3, 1), five + rectangle(0, 5, 2, 1)
    assert form(set(enough), five, WIDE) == Block(Cell(0, 0), Cell(4, 5))
    assert form(set(too_few), five, WIDE) == Block(Cell(0, 0), Cell(4, 4))


def test_neighbouring_tiles_that_wait_become_one_window() -> None:
    viewport = rectangle(0, 0, 24, 40)
    assert form(set(viewport), rectangle(8, 8, 8, 8), WIDE) == Block(Cell(0, 0), Cell(23, 39))


def test_a_window_stays_square_rather_than_long() -> None:
    block = form(set(rectangle(0, 0, 100, 100)), [Cell(50, 50)], Shape(32, 16, 512 * 512))
    assert abs(block.rows - block.cols) <= 1 and block.rows >= 14


def test_a_seed_with_holes_starts_with_a_rectangle_inside_of_it() -> None:
    corner = [Cell(0, 0), Cell(0, 1), Cell(1, 0), Cell(1, 1), Cell(9, 9)]
    assert form(set(corner), corner, WIDE) == Block(Cell(0, 0), Cell(1, 1))


def test_the_first_window_of_an_idle_engine_is_bounded() -> None:
    viewport = set(rectangle(0, 0, 64, 64))
    tile = rectangle(16, 16, 8, 8)
    first, later = form(viewport, tile, WIDE, first=True), form(viewport, tile, WIDE)
    assert set(tile) <= set(first.cells())
    assert window_pixels(first, WIDE) <= FIRST_PIXELS < window_pixels(later, WIDE)


@given(st.integers(1, 12), st.integers(1, 12))
def test_the_first_window_is_larger_than_its_bound_only_when_one_tile_is(rows: int, cols: int) -> None:
    shape = Shape(cell=64, halo=16, max_pixels=4096 * 4096)
    block = form(set(rectangle(0, 0, 40, 40)), rectangle(5, 5, rows, cols), shape, first=True)
    if window_pixels(block, shape) > FIRST_PIXELS:
        assert block == Block(Cell(5, 5), Cell(4 + rows, 4 + cols))


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


def drained(waiting: Waiting[FakeLayer], *, idle: bool = False) -> list[Job[FakeLayer]]:
    jobs = []
    while (job := waiting.next(idle=idle)) is not None:
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
        job = waiting.next(idle=data.draw(st.booleans()))
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


def test_idle_keeps_the_first_window_small() -> None:
    waiting: Waiting[FakeLayer] = Waiting()
    for left in (0, 8, 16, 24):
        waiting.add(FakeLayer("map"), False, rectangle(0, left, 24, 8), Origin("ann"), 0.0)
    job = waiting.next(idle=True)
    assert job is not None and window_pixels(job.block, WIDE) <= max(FIRST_PIXELS, 800 * 288)
    rest = waiting.next()
    assert rest is not None
    # What the first one left is an L: the larger arm comes whole.
    left = set(rectangle(0, 0, 24, 32)) - job.taken
    assert rest.taken <= left and len(rest.taken) > 0.7 * len(left)


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
