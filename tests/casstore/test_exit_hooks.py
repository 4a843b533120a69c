"""What is called at exit, in a real process."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import atexit
from casstore.exit_hooks import at_exit

def fail(name):
    print(name)
    raise ValueError(f"failure of {name}")

at_exit(lambda: print("first"))
at_exit(lambda: fail("second"))
cancel = at_exit(lambda: print("cancelled"))
at_exit(lambda: fail("third"))
atexit.register(print, "the program's own")
cancel()
"""


def test_every_call_is_made_last_in_first_out_and_every_error_shown() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["the program's own", "third", "second", "first"]
    assert "failure of second" in done.stderr and "failure of third" in done.stderr
