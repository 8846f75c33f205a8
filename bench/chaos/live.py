"""``python -m bench.chaos.live PORT serve …``: a server that tells, on that port of this machine, how many bytes it has allocated and not freed.

What the system has given a process is no measure of that: what was freed stays in it, in pieces between what is used, more or less by
chance. With ``PYTHONMALLOC=malloc`` all of Python's objects are counted too.
"""

import contextlib
import ctypes
import gc
import socket
import sys
import threading

FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
"""Of glibc's struct mallinfo2."""


class _Info(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_size_t) for name in FIELDS)


def live(port: int) -> int:
    """Bytes that the server which tells it on ``port`` has allocated and not freed."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection, connection.makefile() as told:
        return int(told.read())


def _tell(listener: socket.socket) -> None:
    look = ctypes.CDLL(None).mallinfo2
    look.restype = _Info
    while True:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            gc.collect()
            info = look()
            connection.sendall(str(info.uordblks + info.hblkhd).encode())


if __name__ == "__main__":
    from ganserve.cli import main

    threading.Thread(
        target=_tell, args=(socket.create_server(("127.0.0.1", int(sys.argv.pop(1)))),), daemon=True
    ).start()
    main()
