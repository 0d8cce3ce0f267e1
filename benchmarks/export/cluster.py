"""Our export on Dask workers of one thread each: `python -m benchmarks.export.cluster WORKERS OUT tiler export ...`.

The export runs twice, each time into a file of its own: a cluster stands before an export comes, so the first run, in
which the workers load the model, does not count. Says what the second has said.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Run it."""
    from distributed import LocalCluster

    workers, out, *export = sys.argv[1:]
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=int(workers), threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        for file in (Path(out).with_name(f"first-{Path(out).name}"), Path(out)):
            command = [*export, "-o", str(file), "--scheduler", cluster.scheduler_address]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout)


if __name__ == "__main__":
    main()
