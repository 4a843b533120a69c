"""Settings come from ``config.toml`` and the environment; a wrong one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from casstore.errors import StoreFormatError
from casstore.layout import Layout
from casstore.settings import Settings, load_settings
from casstore.store import open_root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_settings_come_from_the_file_and_the_environment_wins(root: Path) -> None:
    open_root(root, None, {})
    (root / "config.toml").write_text('views = "copy"\nlock_timeout = 5\noffline = true\n')
    layout = Layout(root)
    assert load_settings(layout, {}) == Settings(5.0, "copy", "never", True)
    environment = {
        "CASSTORE_VIEWS": "link",
        "CASSTORE_OFFLINE": "0",
        "CASSTORE_LOCK_TIMEOUT": "7.5",
        "CASSTORE_VERIFY": "",
    }
    assert load_settings(layout, environment) == Settings(7.5, "link", "never", False)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("views = 5", "views"),
        ('views = "maybe"', "views"),
        ("lock_timeout = -1", "lock_timeout"),
        ('lock_timeout = "soon"', "lock_timeout"),
        ("lock_timeout = nan", "lock_timeout"),
        ("lock_timeout = true", "lock_timeout"),
        ("offline = 7", "offline"),
        ("colour = 1", "colour"),
        ("views = ", "config.toml"),
        ("\udcff", "config.toml"),
    ],
)
def test_a_bad_setting_is_an_error_that_names_it(root: Path, text: str, named: str) -> None:
    open_root(root, None, {})
    (root / "config.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StoreFormatError, match=named):
        load_settings(Layout(root), {})


def test_a_bad_variable_is_an_error_that_names_it(root: Path) -> None:
    with pytest.raises(StoreFormatError, match="CASSTORE_OFFLINE"):
        open_root(root, None, {"CASSTORE_OFFLINE": "perhaps"})
    with pytest.raises(StoreFormatError, match="CASSTORE_VIEWS"):
        open_root(root, None, {"CASSTORE_VIEWS": "perhaps"})
