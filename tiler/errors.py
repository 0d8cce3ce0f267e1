"""What can go wrong, in the words of the domain. `extension` has the one table that speaks HTTP.

Every message says what was wrong, with which value, and what to do. It never holds a local path or a URL's credentials:
a source is named by `scene.display_name`.

    InferenceError
    |-- SceneError         the raster cannot be used at all (not a raster, no CRS, rotated)
    |-- MisfitError        scene and model do not belong together (bands, dtype, scaling, resolution)
    |-- RequestError       the request asks for something that does not exist (a class, a format, a band)
    |   |-- OutsideError   ... or for a place where the scene is not
    |   `-- TooLargeError  ... or for more than one request may have
    |-- UnknownNameError   a scene, model or revision that is not served
    |-- ForbiddenSource    a URL that the operator has not allowed
    |-- BusyError          the queue is full, or the answer took too long
    |-- ReadError          the raster opened, but its pixels could not be read
    `-- DeviceError        the model failed while running
"""

from __future__ import annotations


class InferenceError(Exception):
    """Base class. `reason` says what was wrong with which value, `remedy` what to do about it."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        self.reason = reason.rstrip(".")
        self.remedy = remedy.rstrip(".")
        super().__init__(". ".join(part for part in (self.reason, self.remedy) if part) + ".")


class SceneError(InferenceError):
    """The raster cannot be used."""


class MisfitError(InferenceError):
    """Scene and model do not belong together."""


class RequestError(InferenceError):
    """The request asks for something that does not exist."""


class OutsideError(RequestError):
    """The request asks for a place where the scene is not."""


class TooLargeError(RequestError):
    """The request asks for more than one request may have."""


class UnknownNameError(InferenceError):
    """A scene, model or revision that is not served."""


class ForbiddenSource(InferenceError):
    """A URL outside of what the operator has allowed."""


class BusyError(InferenceError):
    """The queue is full, or the answer took too long. `retry_after` is in seconds."""

    def __init__(self, reason: str, remedy: str = "", retry_after: int = 2) -> None:
        super().__init__(reason, remedy)
        self.retry_after = retry_after


class ReadError(InferenceError):
    """The raster opened, but its pixels could not be read."""


class DeviceError(InferenceError):
    """The model failed while running."""
