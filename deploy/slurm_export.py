"""`tiler export` on SLURM: each worker is a job of its own, started through dask-jobqueue and gone with this script.

    python deploy/slurm_export.py --jobs 8 --cores 8 --memory 16GB --walltime 04:00:00 --queue batch -- \
        scene.tif --model models/landcover -o landcover.tif

What follows `--` goes to `tiler export`. Start it where compute nodes can connect to, in a folder that they see, too:
the scheduler and the driver run here, and paths are the same everywhere. docs/export-cluster.md has the rest.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys

from dask.distributed import Client
from dask_jobqueue import SLURMCluster

from tiler.gdal import EXPORT_CACHE, GDAL_DEFAULTS

# What `tiler export` sets for itself, and workers that Dask starts have to be told.
ENVIRONMENT = {**EXPORT_CACHE, "MALLOC_ARENA_MAX": "2", **GDAL_DEFAULTS}


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description="tiler export on SLURM", usage="%(prog)s [options] -- SCENE -m MODEL -o OUT"
    )
    parser.add_argument("--jobs", type=int, default=4, help="SLURM jobs, one worker each")
    parser.add_argument("--cores", type=int, default=4, help="CPU cores of a job")
    parser.add_argument("--memory", default="8GB", help="memory of a job")
    parser.add_argument("--walltime", default="01:00:00", help="time that a job is given")
    parser.add_argument("--queue", help="partition")
    parser.add_argument("--account", help="who pays")
    parser.add_argument("--interface", help="network interface that nodes share, e.g. ib0")
    parser.add_argument("--gpu", action="store_true", help="one GPU a job, and models on it")
    parser.add_argument("--directive", action="append", default=[], help="another line of #SBATCH; may be repeated")
    parser.add_argument("--prologue", action="append", default=[], help="a line of shell before the worker starts")
    parser.add_argument("--patience", type=float, default=3600, help="seconds to wait until all jobs run")
    parser.add_argument("--print", action="store_true", help="show a job's script, and stop")
    parser.add_argument("export", nargs="*", help="what `tiler export` is given")
    return parser.parse_args()


def cluster_of(wanted: argparse.Namespace) -> SLURMCluster:
    """A cluster without workers yet."""
    # Two blocks of a GPU's worker overlap: one is read and written while the other is inferred.
    resources = ["--resources", "GPU=2"] if wanted.gpu else []
    directives = [*wanted.directive, *(["--gres=gpu:1"] if wanted.gpu else [])]
    return SLURMCluster(
        queue=wanted.queue,
        account=wanted.account,
        cores=wanted.cores,
        processes=1,
        memory=wanted.memory,
        walltime=wanted.walltime,
        interface=wanted.interface,
        job_extra_directives=directives,
        job_script_prologue=[*(f"export {key}={value}" for key, value in ENVIRONMENT.items()), *wanted.prologue],
        worker_extra_args=resources,
    )


def main() -> int:
    """Start the jobs, export, end the jobs; `tiler export`'s exit code."""
    wanted = arguments()
    with cluster_of(wanted) as cluster:
        if wanted.print:
            print(cluster.job_script())
            return 0
        cluster.scale(jobs=wanted.jobs)
        with Client(cluster) as client:
            # The export counts its workers when it begins.
            print(f"Waiting for {wanted.jobs} jobs ...", file=sys.stderr, flush=True)
            client.wait_for_workers(wanted.jobs, timeout=wanted.patience)
        # Ctrl-C is the export's: it ends in order, and this script after it.
        signal.signal(signal.SIGINT, lambda *_: None)
        on_gpu = ["--device", "cuda", "--resources", "GPU=1"] if wanted.gpu else []
        command = [sys.executable, "-m", "tiler.cli", "export", *wanted.export, *on_gpu]
        return subprocess.call([*command, "--scheduler", cluster.scheduler_address], env=os.environ)


if __name__ == "__main__":
    sys.exit(main())
