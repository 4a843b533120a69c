"""So that a failing assert of the shared suite shows its values."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("pathapi.testing")
