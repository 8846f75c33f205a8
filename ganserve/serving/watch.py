"""Looks at the folders of bundles again and again, so that what is copied there serves without a word from anybody.

It compares names, sizes, times and inodes rather than being told by the kernel: network and FUSE file systems, where a cluster keeps
its models, tell nobody. A look at a hundred folders that have not changed reads directories, and no file.
"""

import asyncio
import logging

from ganserve.serving.repository import Repository

log = logging.getLogger(__name__)


async def watch(repository: Repository, seconds: float) -> None:
    """Refresh ``repository`` every so many ``seconds``, until cancelled; what cannot be looked at stays as it is."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await repository.refresh()
        except Exception:
            log.exception("the bundles could not be looked at, and stay as they are")
