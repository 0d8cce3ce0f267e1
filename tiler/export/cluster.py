"""An export on an existing Dask cluster: the same driver, whose blocks are tasks of the cluster's workers.

Workers need the same packages, and the same paths to scenes, model and output. Nothing but orders and receipts crosses
the network.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tiler.errors import InferenceError
from tiler.export.drive import Progress, Result, check_room, describe, parts_of, run
from tiler.export.local import Manner
from tiler.export.order import Order
from tiler.export.session import Facts

# Times that a block is done again when its worker is lost.
RETRIES = 2

# Blocks handed to the scheduler per worker thread: enough that none waits, few enough that an error ends all soon.
AHEAD = 3

TIMEOUT = "10s"


def export(
    order: Order,
    out: Path,
    manner: Manner,
    address: str,
    *,
    resources: Mapping[str, float] | None = None,
    known: Callable[[Facts], None] = lambda facts: None,
    tell: Callable[[Progress], None] = lambda progress: None,
    stop: threading.Event | None = None,
) -> Result:
    """Carry an order out on a cluster; see `local.export`.

    Args:
        address: the scheduler's, tcp://host:8786.
        resources: what a worker must have free for a block, e.g. {"GPU": 1}.

    Raises:
        InferenceError: the scheduler cannot be reached, no worker has the resources; and see `drive.run`.
    """
    try:
        from dask import distributed
    except ImportError:
        raise InferenceError("exports on a cluster need Dask", "pip install 'titiler-inference[dask]'") from None
    # A lost connection is told of below, without a traceback.
    for name in ("distributed.client", "distributed.core", "distributed.utils", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client: Any = distributed.Client(address, timeout=TIMEOUT)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise InferenceError(
            f"the scheduler at {address!r} cannot be reached ({type(error).__name__})",
            "Start it, or correct --scheduler",
        ) from None
    with client:
        with suppress(TimeoutError):  # then it is said how many there are
            client.wait_for_workers(1, timeout=TIMEOUT)
        able = _able(client, resources or {})
        executor = client.get_executor(resources=dict(resources or {}) or None, retries=RETRIES, pure=False)
        if order.threads is None:
            # A forward pass has the threads that its worker was given.
            order = replace(order, threads=min(able))
        try:
            facts = executor.submit(describe, order.to_json()).result()
            # What one worker has chosen holds for all: runtime and precision are part of the revision.
            order = replace(order, runtime=facts.runtime, precision=facts.precision or None)
            known(facts)
            if manner.check_disk:
                check_room(facts, parts_of(out))
            return run(
                executor,
                order,
                facts,
                out,
                at_once=AHEAD * sum(able),
                tell=tell,
                stop=stop,
                overwrite=manner.overwrite,
                keep_parts=manner.keep_parts,
            )
        except (CancelledError, OSError, distributed.KilledWorker) as error:
            raise InferenceError(
                f"the cluster was lost ({type(error).__name__})",
                "What is done stays: give the same command again once the cluster is back, or without --scheduler",
            ) from error


def _able(client: Any, resources: Mapping[str, float]) -> list[int]:
    """Threads of each worker that has what is asked for.

    Raises:
        InferenceError: none has.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    able = [
        int(worker["nthreads"])
        for worker in workers
        if all(worker["resources"].get(name, 0) >= amount for name, amount in resources.items())
    ]
    if not able:
        wanted = ", ".join(f"{name}={amount:g}" for name, amount in resources.items())
        raise InferenceError(
            f"none of the cluster's {len(workers)} workers " + (f"has {wanted}" if wanted else "is there"),
            "Start workers (dask worker --resources ...), or ask for other --resources",
        )
    return able
