"""Which URLs the standalone application opens for `url=`: none, unless the operator lists prefixes."""

from __future__ import annotations

import ipaddress
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import rasterio
from fastapi import Query
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rio_tiler.io import Reader

from tiler.errors import ForbiddenSource, InferenceError, SceneError, UnknownNameError
from tiler.scene import display_name

# A VRT (and some other drivers) can name local files; only this format may come from a URL.
URL_DRIVER = "GTiff"
TIMEOUT_S = 10


class UrlReader(Reader):
    """rio-tiler's reader for files that strangers may name: GeoTIFF only."""

    def __attrs_post_init__(self) -> None:
        """Open with the allowed driver only."""
        if not self.dataset:
            try:
                dataset: DatasetReader = rasterio.open(self.input, driver=URL_DRIVER)
            except RasterioError:
                raise SceneError(f"{display_name(str(self.input))!r} is not a GeoTIFF", "Name a GeoTIFF") from None
            self.dataset = self._ctx_stack.enter_context(dataset)
        super().__attrs_post_init__()  # type: ignore[no-untyped-call]


def allowed_path(prefixes: Sequence[str], *, allow_private: bool = False) -> Callable[..., Any]:
    """A TiTiler path dependency that lets through only what the operator listed.

    Args:
        prefixes: `https://host/folder/` and the like.
        allow_private: also allow hosts in loopback, private and link-local networks.

    Raises:
        InferenceError: a prefix that cannot be meant.
    """
    split = [_checked_prefix(prefix) for prefix in prefixes]

    def path(url: Annotated[str, Query(description="URL of a Cloud Optimized GeoTIFF below an allowed prefix")]) -> str:
        check_url(url, split, allow_private=allow_private)
        return url

    return path


def check_url(url: str, prefixes: Sequence[tuple[str, str, str]], *, allow_private: bool) -> None:
    """Refuse a URL that is not below a prefix, leads to a private address, or redirects.

    Raises:
        ForbiddenSource: with the reason; never says whether something exists there.
        SceneError: allowed, but its server does not answer with a file.
    """
    name = display_name(url)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ForbiddenSource("the URL cannot be read", "Give the URL of a file below an allowed prefix") from None
    path = parts.path
    # Some server on the way may decode what is encoded twice.
    while (plain := unquote(path)) != path:
        path = plain
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ForbiddenSource(f"{name!r} is not an http(s) URL", "Give the URL of a file below an allowed prefix")
    if parts.username or parts.password:
        raise ForbiddenSource("the URL holds credentials", "Let the server's operator configure access")
    if "\\" in path or any(part in (".", "..") for part in path.split("/")):
        raise ForbiddenSource(f"the path of {name!r} is not plain", "Leave '.', '..' and backslashes out")
    netloc = parts.netloc.lower()
    if not any(
        parts.scheme == scheme and netloc == host and path.startswith(folder) for scheme, host, folder in prefixes
    ):
        raise ForbiddenSource(f"{name!r} is not below an allowed prefix", "Ask the server's operator to allow it")
    if not allow_private:
        _refuse_private(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
    _refuse_redirect(url, name)


def _checked_prefix(prefix: str) -> tuple[str, str, str]:
    parts = urlsplit(prefix)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise InferenceError(f"allowed_urls: {prefix!r} is not a prefix", "Write it as https://host/folder/")
    # Without the closing slash, https://host/open would allow https://host/open-and-secret too.
    return parts.scheme, parts.netloc.lower(), unquote(parts.path).rstrip("/") + "/"


def _refuse_private(host: str, port: int) -> None:
    try:
        found = socket.getaddrinfo(host, port, proto=socket.IPPROTO_TCP)
    except OSError:
        raise SceneError("the URL's host has no address", "Check its name") from None
    for *_, address in found:
        if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global:
            raise ForbiddenSource("the URL's host is in a private network", "Only public hosts may be named")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _refuse_redirect(url: str, name: str) -> None:
    """GDAL would follow a redirect wherever it leads, so the first byte is asked for here."""
    request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S):
            return
    except urllib.error.HTTPError as error:
        if 300 <= error.code < 400:
            raise ForbiddenSource(f"{name!r} redirects elsewhere", "Name the file's final URL") from None
        if error.code in (401, 403, 404, 410):
            raise UnknownNameError(f"{name!r} is not there (HTTP {error.code})", "Check the URL") from None
        raise SceneError(f"the server of {name!r} answered {error.code}", "Try again later") from None
    except OSError:
        raise SceneError(f"the server of {name!r} does not answer", "Check the URL, or try again later") from None
