"""Settings come from ``config.toml`` and the environment; a wrong one is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from casstore.config.settings import Rule, Settings, load_settings
from casstore.config.units import parse_age, parse_size
from casstore.errors import StoreFormatError
from casstore.format.layout import Layout
from casstore.root import open_root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_settings_come_from_the_file_and_the_environment_wins(root: Path) -> None:
    open_root(root, None, {})
    (root / "config.toml").write_text('views = "copy"\nlock_timeout = 5\noffline = true\n')
    layout = Layout(root)
    assert load_settings(layout, {}) == Settings(5.0, "copy", offline=True)
    environment = {
        "CASSTORE_VIEWS": "link",
        "CASSTORE_OFFLINE": "0",
        "CASSTORE_LOCK_TIMEOUT": "7.5",
        "CASSTORE_VERIFY": "",
    }
    assert load_settings(layout, environment) == Settings(7.5, "link")


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
        ('local_paths = "never"', "local_paths"),
        ("local_path_grace = -1", "local_path_grace"),
        ("colour = 1", "colour"),
        ("views = ", "config.toml"),
        ("\udcff", "config.toml"),
        ('max_size = "much"', "max_size"),
        ("max_size = -1", "max_size"),
        ("max_size = true", "max_size"),
        ("min_free = 1.5", "min_free"),
        ('max_age = "soon"', "max_age"),
        ("max_age = -1", "max_age"),
        ("rules = 1", r"config.toml: rules: it must be a list of tables"),
        ("[[rules]]\nmax_age = 1", "rule 1: prefix"),
        ('[[rules]]\nprefix = "bucket/tmp/"\nmax_age = 1', "rule 1: prefix.*'bucket/tmp/'"),
        ('[[rules]]\nprefix = "s3://b/"', r"rule 1 \(s3://b/\): it has no limit"),
        ('[[rules]]\nprefix = "s3://b/"\nmax_agee = 1', r"rule 1 \(s3://b/\): unknown key 'max_agee'"),
        ('[[rules]]\nprefix = "s3://b/"\nmax_age = "x"', r"config.toml: rules: rule 1 \(s3://b/\): max_age = 'x'"),
        ('[[rules]]\nprefix = "s3://b/"\nmax_age = 1\nmax_size = "x"', r"rule 1 \(s3://b/\): max_size = 'x'"),
        ('[[rules]]\nprefix = "s3://b/"\nmax_age = 1\n' * 2, "rule 2: the prefix .* has two rules"),
        (f'[[rules]]\nprefix = "s3://{"b" * 400}"\nmax_age = 1', "rule 1: prefix is too long: 400 bytes"),
        ("".join(f'[[rules]]\nprefix = "s3://b{n}/"\nmax_age = 1\n' for n in range(251)), "251 rules: 250 are allowed"),
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


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("12", 12),
        ("12 B", 12),
        ("10GB", 10**10),
        ("10 gb", 10**10),
        ("500MiB", 500 << 20),
        ("1.5KiB", 1536),
        ("2K", 2048),
        ("0.001kB", 1),
        ("3T", 3 << 40),
        (7, 7),
    ],
)
def test_sizes_count_by_1000_or_1024_as_their_unit_says(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "1ib", "1Ki", "10XB", "1e9", "nan", "1 2", "GB", True, -1, 1.5])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_size(text)


def test_budgets_come_from_the_file_and_the_environment(root: Path) -> None:
    open_root(root, None, {})
    (root / "config.toml").write_text('max_size = "10GB"\nmin_free = 4096\n')
    settings = load_settings(Layout(root), {"CASSTORE_MIN_FREE": "0"})
    assert (settings.max_size, settings.min_free) == (10**10, 0)


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("90", 90),
        (90, 90),
        ("90s", 90),
        ("45m", 2700),
        ("12h", 43200),
        ("30D", 2592000),
        (" 2 w ", 1209600),
        ("none", None),
    ],
)
def test_ages_are_seconds_or_have_a_unit(text: object, age: int | None) -> None:
    assert parse_age(text) == age


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5h", "1y", "1 2", "d", True, -1, 1.5])
def test_what_is_no_age_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_age(text)


def test_ages_and_rules_come_from_the_file_and_the_environment_wins(root: Path) -> None:
    open_root(root, None, {})
    (root / "config.toml").write_text(
        'max_age = "30d"\n[[rules]]\nprefix = "s3://b/tmp/"\nmax_age = "2h"\nmax_size = "5kB"\n'
        '[[rules]]\nprefix = "s3://b/keep/"\nmax_age = "none"\n[[rules]]\nprefix = "gs://"\nmax_size = 1\n'
    )
    settings = load_settings(Layout(root), {"CASSTORE_MAX_AGE": "1w", "CASSTORE_RULES": "ignored"})
    assert settings.max_age == 604800
    assert settings.rules == (
        Rule("s3://b/tmp/", 7200, 5000, has_age=True),
        Rule("s3://b/keep/", None, None, has_age=True),
        Rule("gs://", None, 1, has_age=False),
    )
    assert load_settings(Layout(root), {"CASSTORE_MAX_AGE": "none"}).max_age is None


def test_by_default_a_twentieth_of_the_disk_stays_free_and_10_gib_at_most() -> None:
    def disk(size: int) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, size // 4096, 0, 0, 0, 0, 0, 0, 255))

    assert Settings().max_size is None
    assert Settings().keep_free(disk(100 << 30)) == 5 << 30
    assert Settings().keep_free(disk(10 << 40)) == 10 << 30
    assert Settings(min_free=0).keep_free(disk(100 << 30)) == 0
    assert Settings(min_free=1 << 50).keep_free(disk(100 << 30)) == 1 << 50
