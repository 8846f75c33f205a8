"""ganserve trains, exports and serves any GAN. This distribution is the torch-free half: contracts, bundles, server, client."""

import pluggy

__version__ = "0.1.0"

hookimpl = pluggy.HookimplMarker("ganserve")
"""Marks a function of a plugin as the answer to one of the questions in :mod:`ganserve.hookspecs`."""

__all__ = ["__version__", "hookimpl"]
