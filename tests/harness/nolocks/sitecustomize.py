"""Python imports this at start where this directory is on PYTHONPATH: see `tests.harness.nolocks`."""

import importlib.util
import os
from pathlib import Path

if os.environ.get("CASSTORE_TEST_NO_LOCKS"):
    # By path: the checkout itself need not be on the child's path.
    spec = importlib.util.spec_from_file_location("nolocks", Path(__file__).with_name("__init__.py"))
    assert spec is not None
    assert spec.loader is not None
    nolocks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nolocks)
    nolocks.install()
