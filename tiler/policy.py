"""What browsers may do with our pages: load what is served beside them, and nothing else from anywhere."""

from __future__ import annotations

from collections.abc import Sequence

# OpenLayers draws on canvases, and takes its workers and pictures from blobs that it made itself. No script and no
# style stands in a page: what others call a class or a scene can never become one.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "worker-src 'self' blob:; font-src 'self' data:; base-uri 'none'; form-action 'none'; object-src 'none'"
)


def page_headers(frame_ancestors: Sequence[str], inline_styles: bool = False) -> dict[str, str]:
    """Headers of a page of ours.

    Args:
        frame_ancestors: CSP sources of the pages that may frame it; empty means none.
        inline_styles: whether elements may carry styles of their own.
    """
    policy = _POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'") if inline_styles else _POLICY
    sources = " ".join(frame_ancestors) or "'none'"
    return {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": f"{policy}; frame-ancestors {sources}",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
