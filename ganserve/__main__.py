"""``python -m ganserve`` is ``ganserve``."""

from ganserve.cli import main

main()
