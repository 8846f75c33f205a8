import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ganserve.testing.echo import write_bundle


@pytest.fixture(scope="session")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The echo bundle; not to be written to."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "echo")


@pytest.fixture(scope="session")
def needs_tool() -> Callable[[str], str]:
    """``needs_tool(name)``: the path of a command; without it the test is skipped, but fails where CI=true promises every tool."""

    def find(name: str) -> str:
        beside = Path(sys.executable).parent
        path = shutil.which(name, path=os.pathsep.join((str(beside), os.environ["PATH"], "/usr/sbin")))
        if path is None:
            reason = f"{name} is not installed; `make tools .venv/.deploy` installs it"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        return path

    return find
