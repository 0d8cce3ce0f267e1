"""Files of a remote root, read through `obstore`: small ones whole, large ones in pieces. The only home of `obstore`.

Its own messages hold URLs, and those credentials: none is passed on. Credentials, endpoints and regions come from the
environment, as the providers name them (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_SERVICE_ACCOUNT`, ...).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from model_registry.errors import RegistryError, UnsupportedModel

SCHEMES = ("s3", "gs", "https", "http")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PIECE = 4 << 20
# A piece may be late by this much; how long a file may take altogether depends on its size.
_CLIENT = {"connect_timeout": "10s", "read_timeout": "30s", "timeout": "2h"}


class AccessRefused(RegistryError):
    """The registry is there, but not for us."""


class RemoteFiles:
    """What lies below `root`, by paths relative to it."""

    def __init__(self, root: str) -> None:
        """Make ready to read; nothing is asked for yet.

        Raises:
            RegistryError: a URL that is not for this, or plain http to another machine.
            UnsupportedModel: `obstore` is not installed.
        """
        try:
            parts = urlsplit(root)
            host = parts.hostname
        except ValueError:
            raise RegistryError("the registry's URL cannot be read", "Write e.g. s3://bucket/models") from None
        self.scheme = parts.scheme
        if self.scheme not in SCHEMES or not host:
            raise RegistryError(
                f"a registry cannot be at {self.scheme}://", "Write a folder, s3://bucket/..., gs://... or https://..."
            )
        if parts.query or parts.fragment:
            raise RegistryError("the registry's URL has a query", "Give credentials in the environment instead")
        if self.scheme == "http" and host not in _LOOPBACK:
            raise RegistryError("plain http can be read and changed by everybody on the way", "Write https://")
        try:
            from obstore import store as stores
        except ImportError:
            raise UnsupportedModel(
                "remote registries need obstore, which is not installed", "pip install 'titiler-inference[remote]'"
            ) from None
        # obstore's own reading of AWS_ALLOW_HTTP is lost when it is given options.
        allow_http = self.scheme == "http" or (
            self.scheme == "s3" and os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("true", "1", "yes")
        )
        options: dict[str, Any] = {**_CLIENT, "allow_http": allow_http}
        from_url: Any = stores.from_url
        with _told("the registry"):
            self._store = from_url(root.rstrip("/"), client_options=options, retry_config={"max_retries": 3})

    def small(self, path: str, limit: int) -> bytes | None:
        """Return the content of a file of at most `limit` bytes, None where there is none.

        Raises:
            AccessRefused, RegistryError: it cannot be read, or is larger.
        """
        data = b""
        try:
            for piece in self.pieces(path):
                data += piece
                if len(data) > limit:
                    raise RegistryError(f"{path} has more than {limit} bytes", "It cannot be what it should be")
        except NotThere:
            return None
        return data

    def pieces(self, path: str) -> Iterator[bytes]:
        """Give the content of a file, a few MiB at a time."""
        import obstore

        with _told(path):
            for piece in obstore.get(self._store, path).stream(min_chunk_size=_PIECE):
                yield bytes(piece)

    def has(self, path: str) -> bool:
        """Tell whether there is such a file."""
        import obstore

        try:
            with _told(path):
                obstore.head(self._store, path)
        except NotThere:
            return False
        return True

    def folders(self, path: str = "") -> list[str]:
        """Return the names of the folders in folder `path`.

        Raises:
            RegistryError: this kind of server cannot be asked, or refuses.
        """
        import obstore

        try:
            with _told(path or "the registry"):
                found = obstore.list_with_delimiter(self._store, path or None)
        except RegistryError as error:
            if self.scheme not in ("http", "https"):
                raise
            raise RegistryError(
                "the registry has no index.json that can be read, and a web server cannot be listed",
                "Write one with `tiler models index FOLDER` and put it there, or check the address",
            ) from error
        return [str(prefix).rstrip("/").rsplit("/", 1)[-1] for prefix in found["common_prefixes"]]


class NotThere(RegistryError):
    """No such file."""


@contextmanager
def _told(path: str) -> Iterator[None]:
    """Speak of what went wrong without what the library says: it names URLs."""
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise NotThere(f"{path} is not in the registry", "Upload it again, or remove the version") from None
    except (PermissionError, PermissionDeniedError, UnauthenticatedError):
        raise AccessRefused(
            f"access to {path} was refused", "Check the credentials in the environment, and what they allow"
        ) from None
    except (BaseError, OSError, ValueError) as error:
        raise RegistryError(
            f"{path} cannot be read from the registry ({type(error).__name__})",
            "Check address, network and credentials, and try again",
        ) from None
