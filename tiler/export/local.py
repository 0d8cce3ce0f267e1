"""An export on this machine: blocks in threads of this process, over one engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tiler.export.drive import Progress, Result, at_hand, check_room, parts_of, run
from tiler.export.order import Order
from tiler.export.session import BLOCKS_AT_ONCE, Facts, Session


@dataclass(frozen=True, slots=True)
class Manner:
    """How an export is done; nothing here decides a byte of it.

    Attributes:
        overwrite: whether files and parts of other exports are replaced.
        keep_parts: whether the parts stay.
        check_disk: whether it is refused when the disk may be too small.
    """

    overwrite: bool = False
    keep_parts: bool = False
    check_disk: bool = True


def export(
    order: Order,
    out: Path,
    manner: Manner,
    *,
    session: Session | None = None,
    known: Callable[[Facts], None] = lambda facts: None,
    tell: Callable[[Progress], None] = lambda progress: None,
    stop: threading.Event | None = None,
) -> Result:
    """Carry an order out.

    Args:
        order: what.
        out: path of the first file; see `drive.run`.
        manner: how.
        session: the order, opened already; it is closed here, too.
        known: hears of the facts before anything is inferred.
        tell: hears of progress.
        stop: ends it when set; what is done stays.

    Raises:
        InferenceError, ModelError, Stopped: see `Session.open` and `drive.run`.
    """
    session = session or Session.open(order)
    try:
        facts = session.facts
        known(facts)
        if manner.check_disk:
            check_room(facts, parts_of(out))
        with at_hand(order, session), ThreadPoolExecutor(BLOCKS_AT_ONCE, thread_name_prefix="export") as pool:
            try:
                return run(
                    pool,
                    order,
                    facts,
                    out,
                    at_once=BLOCKS_AT_ONCE,
                    tell=tell,
                    stop=stop,
                    overwrite=manner.overwrite,
                    keep_parts=manner.keep_parts,
                    hits=lambda: session.engine.counters.hits,
                    # The model's memory is room for GDAL's.
                    inferred=session.close,
                )
            finally:
                # Blocks that are in the making end now, not when they are done.
                session.stop.set()
    finally:
        session.close()
