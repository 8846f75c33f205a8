"""Keeps one address from taking all the connections of a port.

gRPC for Python tells of calls and not of connections, so the operating system is asked: what this process has open is looked through
once a second, and of an address that has more connections than it may the newest are shut down. gRPC takes that for the client's leaving.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeAlias

log = logging.getLogger(__name__)

SECONDS = 1.0
"""How often it is looked."""

OPEN = Path("/dev/fd")
"""Where Linux, macOS and the BSDs list what a process has open."""

Peer: TypeAlias = tuple[str, int]
"""The address and the port at a client's end."""


class Crowd:
    """The connections to ``ports``, of which one address may have ``most``; ``told`` is called with how many were shut down."""

    def __init__(self, ports: Collection[int], most: int, told: Callable[[int], None]) -> None:
        self._ports, self._most, self._told = frozenset(ports), most, told
        self._seen: dict[Peer, None] = {}

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        if not OPEN.is_dir():
            log.warning("%s is not there: connections are counted for each port, and not for each client", OPEN)
            return
        while True:
            await asyncio.sleep(SECONDS)
            try:
                self.thin()
            except OSError as error:
                log.warning("connections could not be counted: %s", error)

    def thin(self) -> None:
        """Shut down what is beyond the most; those seen first stay."""
        there = {peer: fd for fd in map(int, os.listdir(OPEN)) if (peer := self._peer(fd)) is not None}
        self._seen = {peer: None for peer in (*self._seen, *there) if peer in there}
        clients: defaultdict[str, list[Peer]] = defaultdict(list)
        for peer in self._seen:
            clients[peer[0]].append(peer)
        for address, peers in clients.items():
            if beyond := peers[self._most :]:
                log.warning("%s had %d connections: those beyond %d were shut down", address, len(peers), self._most)
                self._told(sum(_shut(there[peer], peer) for peer in beyond))

    def _peer(self, fd: int) -> Peer | None:
        """Who is at the other end of ``fd``; None if that is no connection to one of the ports."""
        with contextlib.suppress(OSError), _copy(fd) as found:
            # A path stands where a socket of the machine's own has an address.
            here = found.getsockname()
            if isinstance(here, tuple) and here[1] in self._ports:
                return _far_end(found)
        return None


def _shut(fd: int, peer: Peer) -> bool:
    """Shut down ``fd``, if it is still the connection of ``peer``."""
    with contextlib.suppress(OSError), _copy(fd) as found:
        if _far_end(found) == peer:
            found.shutdown(socket.SHUT_RDWR)
            return True
    return False


def _copy(fd: int) -> socket.socket:
    # gRPC may close its own at any moment, and the number be another's then.
    copy = os.dup(fd)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def _far_end(connection: socket.socket) -> Peer:
    address, port = connection.getpeername()[:2]
    return str(address).removeprefix("::ffff:"), int(port)
