"""Settings of GDAL for processes of ours. They are read when GDAL first needs them; an operator's own values win."""

from __future__ import annotations

import os

# A stuck server must not hold a reader's thread for ever.
GDAL_DEFAULTS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "30",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "VSI_CACHE": "TRUE",
}

# Megabytes of decoded tiles that an export lets GDAL keep; GDAL's own default is a share of the machine's memory.
EXPORT_CACHE = {"GDAL_CACHEMAX": "128"}


def settle(*, exporting: bool = False) -> None:
    """Make them the environment's, where that says nothing else."""
    for key, value in (GDAL_DEFAULTS | (EXPORT_CACHE if exporting else {})).items():
        os.environ.setdefault(key, value)


def hold() -> None:
    """Enter an environment in this thread for good: rasterio makes one for each transform where there is none, and that
    takes longer than the transform. It has no credentials; who reads enters one with its own inside of it.
    """
    from rasterio import Env  # commands that read no raster start without it
    from rasterio.session import DummySession

    Env(DummySession()).__enter__()
