"""A fork while another thread is importing: the child imports the same module anew."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from pathlib import Path

import pytest

from casstore import opening
from tests.casstore.support.fill import fork, status_of


def test_a_child_imports_what_another_thread_was_importing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread begins after the fork's last look, as it seems if that is not waited for."""
    monkeypatch.setattr(opening, "_IMPORT_SECONDS", 0.0)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "half_imported.py").write_text("from tests_gate import begun, end\nbegun.set()\nend.wait(60)\nx = 1\n")
    (tmp_path / "tests_gate.py").write_text("import threading\nbegun, end = threading.Event(), threading.Event()\n")
    gate = importlib.import_module("tests_gate")
    thread = threading.Thread(target=importlib.import_module, args=("half_imported",))
    thread.start()
    gate.begun.wait()

    def import_it() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        gate.end.set()
        assert importlib.import_module("half_imported").x == 1

    try:
        assert status_of(fork(import_it)) == 0
    finally:
        gate.end.set()
        thread.join()
        for name in ("half_imported", "tests_gate"):
            sys.modules.pop(name, None)
