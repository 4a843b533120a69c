"""Paths as fields, parameters and settings of other libraries, which call the class or one method of it."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import attrs
import click
import hydra.utils
import omegaconf
import pydantic
import pytest
import typer
from click.testing import CliRunner
from typer.testing import CliRunner as TyperRunner

from pathapi import AnyPath, CloudPath, FileClient, FilePath, GSPath, S3Client, S3Path

URI = "s3://bucket/data/a.csv"


# --- pydantic --------------------------------------------------------------------------------------------------------


class Job(pydantic.BaseModel):
    """What a user's model looks like."""

    source: CloudPath
    target: S3Path | None = None
    more: list[GSPath] = []
    sizes: dict[CloudPath, int] = {}
    anywhere: AnyPath = pydantic.Field(default_factory=lambda: AnyPath("local"))  # type: ignore[assignment]


def test_a_model_goes_to_json_and_back() -> None:
    job = Job(source=URI, target=URI, more=["gs://b/k"], sizes={URI: 3}, anywhere="s3://b/k")  # type: ignore[arg-type, dict-item, list-item]
    assert (type(job.source), type(job.target), type(job.more[0])) == (S3Path, S3Path, GSPath)
    assert job.sizes == {S3Path(URI): 3} and job.anywhere == S3Path("s3://b/k")
    text = job.model_dump_json()
    assert json.loads(text) == job.model_dump() == {
        "source": URI, "target": URI, "more": ["gs://b/k"], "sizes": {URI: 3}, "anywhere": "s3://b/k",
    }  # fmt: skip
    assert Job.model_validate_json(text) == Job.model_validate(json.loads(text)) == job
    assert copy.deepcopy(job) == pickle.loads(pickle.dumps(job)) == job.model_copy(deep=True) == job


def test_a_local_path_is_one_where_any_path_may_be() -> None:
    for values, expected in ({"source": URI}, Path("local")), ({"source": URI, "anywhere": Path("/x")}, Path("/x")):
        job: Any = Job.model_validate(values)
        assert job.anywhere == expected and job.model_dump()["anywhere"] == str(expected)


def test_a_path_keeps_its_client_in_a_model(tmp_path: Path) -> None:
    path = FileClient(local_cache_dir=tmp_path).CloudPath("file:///k")
    job = Job(source=path)
    assert job.source is path
    assert copy.deepcopy(job).source.client is path.client


@pytest.mark.parametrize(
    "value", [0, None, b"s3://b/k", "b/k", "nothing://b/k", "s3:///k", "s3://b/\0", Path("s3://b/k"), {}]
)
def test_what_is_no_path_is_an_error_of_validation(value: Any) -> None:
    with pytest.raises(pydantic.ValidationError, match="source"):
        Job(source=value)
    with pytest.raises(pydantic.ValidationError, match="anywhere"):
        Job(source=URI, anywhere=0)  # type: ignore[arg-type]
    with pytest.raises(pydantic.ValidationError, match="target"):
        Job(source=URI, target="gs://b/k")  # type: ignore[arg-type]
    with pytest.raises(pydantic.ValidationError, match="string"):
        Job.model_validate_json('{"source": 5}')


def test_a_type_adapter_takes_each_class() -> None:
    for kind in (CloudPath, S3Path, AnyPath):
        adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(kind)
        path = adapter.validate_python(URI)
        assert type(path) is S3Path and adapter.validate_json(adapter.dump_json(path)) == path
    assert pydantic.TypeAdapter(dict[str, CloudPath]).validate_python({"a": URI}) == {"a": S3Path(URI)}


def test_the_json_schema_says_that_it_is_the_text_of_a_uri() -> None:
    properties = Job.model_json_schema()["properties"]
    assert properties["source"] == {"format": "uri", "title": "Source", "type": "string"}
    assert properties["anywhere"] == {"title": "Anywhere", "type": "string"}
    assert Job.model_json_schema(mode="serialization")["properties"]["source"]["type"] == "string"


def test_a_function_whose_arguments_are_validated_takes_text() -> None:
    @pydantic.validate_call
    def name_of(path: CloudPath) -> str:
        return path.name

    assert name_of(URI) == name_of(S3Path(URI)) == "a.csv"  # type: ignore[arg-type]


def test_pydantic_is_imported_by_nothing_of_ours() -> None:
    code = """
import sys
sys.modules["pydantic"] = sys.modules["pydantic_core"] = None
from pathapi import AnyPath, S3Path
assert S3Path.validate("s3://b/k") == AnyPath.validate("s3://b/k")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# --- classes of data -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, order=True)
class Item:
    """A plain dataclass."""

    path: CloudPath
    size: int = 0


def test_dataclasses_compare_hash_and_copy_paths() -> None:
    client = S3Client(aws_access_key_id="id", aws_secret_access_key="secret", region="r")
    item = Item(client.CloudPath(URI), 3)
    assert item == Item(S3Path(URI), 3) and hash(item) == hash(Item(S3Path(URI), 3)) and item < Item(S3Path(URI), 4)
    as_dict = dataclasses.asdict(item)
    assert as_dict == {"path": S3Path(URI), "size": 3} and as_dict["path"].client is client
    assert dataclasses.replace(item, path=item.path / "x").path.client is client

    @pydantic.dataclasses.dataclass
    class Checked:
        path: S3Path

    assert Checked(URI).path == S3Path(URI)  # type: ignore[arg-type]


def test_attrs_convert_text() -> None:
    @attrs.define
    class Item:
        path: CloudPath = attrs.field(converter=CloudPath)
        any: Any = attrs.field(converter=AnyPath, default="local")

    item = Item(URI)
    assert (item.path, item.any) == (S3Path(URI), Path("local"))
    assert attrs.asdict(item)["path"] == S3Path(URI) and attrs.evolve(item, path=item.path / "x").path.name == "x"
    with pytest.raises(ValueError, match="not a URI"):
        Item("local")


# --- command lines ---------------------------------------------------------------------------------------------------


def test_argparse_takes_the_class_as_a_type(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser(prog="x")
    parser.add_argument("source", type=CloudPath)
    parser.add_argument("--target", type=AnyPath, default="s3://b/default")
    options = parser.parse_args([URI])
    assert (options.source, options.target) == (S3Path(URI), S3Path("s3://b/default"))
    with pytest.raises(SystemExit):
        parser.parse_args(["local"])
    assert "argument source: invalid CloudPath value: 'local'" in capsys.readouterr().err


def test_click_takes_the_class_as_a_type() -> None:
    @click.command()
    @click.argument("source", type=CloudPath)
    @click.option("--target", type=AnyPath, default=S3Path("s3://b/default"))
    @click.option("--file", type=click.Path(path_type=S3Path))
    def run(source: CloudPath, target: Any, file: S3Path) -> None:
        click.echo(f"{source!r} {target!r} {file!r}")

    done = CliRunner().invoke(run, [URI, "--file", URI])
    assert done.output == f"S3Path('{URI}') S3Path('s3://b/default') S3Path('{URI}')\n"
    refused = CliRunner().invoke(run, ["local"])
    assert refused.exit_code == 2 and "local" in refused.output


def test_typer_takes_the_class_as_a_parser() -> None:
    app = typer.Typer()

    @app.command()
    def run(
        source: Annotated[CloudPath, typer.Argument(parser=CloudPath)],
        target: Annotated[Any, typer.Option(parser=AnyPath)] = "s3://b/default",
    ) -> None:
        typer.echo(f"{source!r} {target!r}")

    done = TyperRunner().invoke(app, [URI])
    assert done.output == f"S3Path('{URI}') S3Path('s3://b/default')\n"
    assert TyperRunner().invoke(app, ["local"]).exit_code == 2


# --- settings --------------------------------------------------------------------------------------------------------


def test_settings_of_omegaconf_and_hydra_are_text_that_makes_paths(tmp_path: Path) -> None:
    (tmp_path / "k.txt").write_text("bytes")
    config = omegaconf.OmegaConf.create(
        {
            "root": tmp_path.as_uri(),
            "path": "${root}/k.txt",
            "source": {"_target_": "pathapi.CloudPath", "cloud_path": "${path}"},
            "parts": {"_target_": "pathapi.FilePath", "_args_": ["${root}", "k.txt"]},
            "any": {"_target_": "pathapi.AnyPath", "_args_": [URI]},
            "client": {"_target_": "pathapi.FileClient", "local_cache_dir": str(tmp_path / "s"), "freshness": "always"},
        }
    )
    path = hydra.utils.instantiate(config.client).CloudPath(config.path)
    assert path.read_text() == "bytes"
    assert hydra.utils.instantiate(config.source) == hydra.utils.instantiate(config.parts) == FilePath(config.path)
    assert hydra.utils.instantiate(config.any) == S3Path(URI)
    assert omegaconf.OmegaConf.to_yaml(omegaconf.OmegaConf.create({"path": str(path)})) == f"path: {path}\n"
