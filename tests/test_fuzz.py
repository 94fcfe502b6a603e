"""The programs in fuzz/ that need nothing else, for a moment each; docs/reliability.md has more."""

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent.parent / "fuzz"


@pytest.mark.skipif(sys.platform == "win32", reason="limits and kills are POSIX's")
@pytest.mark.parametrize(
    "arguments",
    [("tables.py", "--inputs", "200"), ("kill.py", "--kills", "10")],
    ids=lambda a: a[0],
)
def test_nothing_is_found(arguments):
    name, *options = arguments
    done = subprocess.run(
        [sys.executable, FUZZ / name, *options], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
