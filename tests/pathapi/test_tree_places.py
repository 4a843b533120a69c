"""Trees whose source or target is reached in another way: by a second client, by a URL with a login, by index pages."""

from __future__ import annotations

import pytest

from pathapi import S3Path
from pathapi.exceptions import InvalidConfigurationException
from tests.pathapi.backends.grounds import S3Ground
from tests.pathapi.conftest import MakeClient

# --- by a second client ---------------------------------------------------------------------------------------------


def test_a_tree_is_not_copied_into_itself_by_a_second_client_either(
    make_client: MakeClient, ground: S3Ground, at: str
) -> None:
    for name in ("x", "y/z"):
        ground.plant(f"{at}dir/{name}", name.encode())
    root = f"s3://{ground.bucket}/{at}dir/"
    source, target = make_client().S3Path(root), make_client().S3Path(root + "y/")
    for way in (S3Path.copytree, S3Path.copy, S3Path.move):
        with pytest.raises(InvalidConfigurationException, match="into itself"):
            way(source, target)
        assert way(source, make_client().S3Path(root)), "to where it is: nothing to do"
    keys = {item.key for item in source.client.backend(ground.bucket).list(at)}
    assert keys == {f"{at}dir/x", f"{at}dir/y/z"}


def test_a_tree_moves_up_by_a_second_client_unless_it_would_meet_itself(
    make_client: MakeClient, ground: S3Ground, at: str
) -> None:
    for name in ("e/x", "x"):
        ground.plant(f"{at}e/e/{name}", name.encode())
    root = f"s3://{ground.bucket}/{at}e/"
    with pytest.raises(InvalidConfigurationException, match="another directory"):
        make_client().S3Path(root + "e/").move(make_client().S3Path(root))
    assert (ground.content(at + "e/e/e/x"), ground.content(at + "e/e/x")) == (b"e/x", b"x")
