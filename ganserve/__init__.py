"""ganserve trains, exports and serves any GAN. This distribution is the torch-free half: contracts, bundles, server, client."""

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from ganserve.client import AsyncClient, Client

__version__ = "0.1.0"

hookimpl = pluggy.HookimplMarker("ganserve")
"""Marks a function of a plugin as the answer to one of the questions in :mod:`ganserve.hookspecs`."""

__all__ = ["AsyncClient", "Client", "__version__", "hookimpl"]


def __getattr__(name: str) -> Any:
    """The clients, imported when first asked for: a plugin that imports its marker needs no gRPC."""
    if name in ("AsyncClient", "Client"):
        from ganserve import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
