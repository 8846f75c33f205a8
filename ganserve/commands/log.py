"""Where a server's log goes, and how its lines look."""

import logging
import sys


def start_log(level: str, kind: str) -> None:
    """Log to stderr. ``text`` is for people where that is a terminal, else one plain line an event; ``json`` is an object a line.

    An object has ``timestamp``, ``level``, ``logger`` and ``message``, a traceback in ``exc_info``, and what an event tells beside its message:
    ``request_id`` (the id that the caller was told), ``model``, ``task``. Lines of calls, which have their own option, come at any level.
    """
    handler: logging.Handler = logging.StreamHandler()
    if kind == "json":
        from pythonjsonlogger.json import JsonFormatter

        names = {"levelname": "level", "name": "logger"}
        handler.setFormatter(JsonFormatter("%(levelname)s %(name)s %(message)s", rename_fields=names, timestamp=True))
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        handler = RichHandler(console=Console(stderr=True), show_path=False)
        handler.setFormatter(logging.Formatter("%(message)s", "%X"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("ganserve.serving.calls").setLevel(logging.INFO)
