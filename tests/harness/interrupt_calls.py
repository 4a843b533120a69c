"""The calls that `tests/harness/interrupt_scenes.py` interrupts, and what must be so in the cloud afterwards."""

from __future__ import annotations

import builtins
import contextlib
import glob
import os
import shutil
from pathlib import Path
from typing import Final

import pathapi
from pathapi.patches import patch_all_builtins
from pathapi.writing import unclosed
from tests.harness.interrupt_stages import OLD, DoubleStage, HttpStage, Stage

NEW: Final = b"new! " * 5_000
OTHER: Final = b"other"


class Scene:
    """One public call: prepared, made and checked for each point, on an object of its own."""

    stage_type: type[Stage] = Stage
    is_first_use = False
    """Whether each point has a new store, of which nothing is open and no thread runs."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def prepare(self, name: str) -> None:
        """Plant the object."""
        self.stage.plant(name)

    def run(self, name: str) -> None:
        """Make the call."""
        raise NotImplementedError

    def check(self, name: str, is_done: bool) -> str | None:
        """Return what is wrong in the cloud; *is_done*: the call has returned."""
        content = self.stage.content(name)
        return None if content == OLD else f"the object has changed: {content!r:.40}"


class ColdRead(Scene):
    def run(self, name: str) -> None:
        if self.stage.path(name).read_bytes() != OLD:
            raise AssertionError("wrong bytes")


class ColdOpen(Scene):
    def run(self, name: str) -> None:
        with self.stage.path(name).open("rb") as file:
            if file.read() != OLD:
                raise AssertionError("wrong bytes")


class WarmRead(ColdRead):
    def prepare(self, name: str) -> None:
        super().prepare(name)
        self.stage.path(name).read_bytes()
        self.stage.cache.flush()


class WarmHit(WarmRead):
    """Without a request."""

    def run(self, name: str) -> None:
        with self.stage.path(name).open("rb", freshness="immutable") as file:
            if file.read() != OLD:
                raise AssertionError("wrong bytes")


class Fspath(WarmRead):
    def run(self, name: str) -> None:
        assert Path(self.stage.path(name)).read_bytes() == OLD


class LocalDirectory(WarmRead):
    def run(self, name: str) -> None:
        self.stage.client.directories.clear()
        assert Path(self.stage.path(name).parent, name).read_bytes() == OLD


class Write(Scene):
    new = NEW

    def run(self, name: str) -> None:
        self.stage.path(name).write_bytes(NEW)

    def check(self, name: str, is_done: bool) -> str | None:
        content = self.stage.content(name)
        if is_done and content != self.new:
            return f"it returned, and the cloud has {content!r:.40}"
        if content not in (OLD, self.new):
            return f"a half object: {len(content or b'')} bytes"
        path = self.stage.path(name)
        for write in path.pending:
            path.drop(write)
        return None


class TextWrite(Write):
    def run(self, name: str) -> None:
        with self.stage.path(name).open("w") as file:
            for _ in range(50):
                file.write("new! " * 100)


class TextClose(TextWrite):
    """As a script without a ``with`` does."""

    def run(self, name: str) -> None:
        file = self.stage.path(name).open("w")
        try:
            file.write(NEW.decode()[:7_000])
            file.write(NEW.decode()[7_000:])
        finally:
            file.close()

    def check(self, name: str, is_done: bool) -> str | None:
        # An exception between two writes is the script's: what it closes is uploaded.
        content = self.stage.content(name)
        if content in (b"", NEW[:7_000]) and not is_done:
            return None
        return super().check(name, is_done)


class Append(Write):
    new = OLD + OTHER

    def run(self, name: str) -> None:
        with self.stage.path(name).open("ab") as file:
            file.write(OTHER)


class Rename(Scene):
    def run(self, name: str) -> None:
        self.stage.path(name).rename(self.stage.path(f"{name}-renamed"))

    def check(self, name: str, is_done: bool) -> str | None:
        contents = self.stage.content(name), self.stage.content(f"{name}-renamed")
        if contents not in ((OLD, None), (None, OLD), (OLD, OLD)) or (is_done and contents != (None, OLD)):
            return f"after the move: {contents!r:.80}"
        with contextlib.suppress(FileNotFoundError):
            (self.stage.files / f"{name}-renamed").rename(self.stage.files / name)
        return None


class Unlink(Scene):
    def prepare(self, name: str) -> None:
        super().prepare(name)
        self.stage.path(name).read_bytes()

    def run(self, name: str) -> None:
        self.stage.path(name).unlink()

    def check(self, name: str, is_done: bool) -> str | None:
        content = self.stage.content(name)
        if content is not None and (is_done or content != OLD):
            return f"after the deletion: {content!r:.40}"
        self.stage.plant(name)
        return None


class Listing(Scene):
    def prepare(self, name: str) -> None:
        super().prepare(name)
        self.stage.plant(f"{name}-dir/one")
        self.stage.plant(f"{name}-dir/two")

    def run(self, name: str) -> None:
        directory = self.stage.path(f"{name}-dir")
        if len(list(directory.iterdir())) != 2 or len(list(directory.glob("*"))) != 2:
            raise AssertionError("a wrong listing")


class Prefetch(Listing):
    def run(self, name: str) -> None:
        pathapi.prefetch([self.stage.path(f"{name}-dir/{one}") for one in ("one", "two")])


class Collect(WarmRead):
    def run(self, name: str) -> None:
        self.stage.cache.execute(self.stage.cache.plan(max_size=0))


class Clear(WarmRead):
    def run(self, name: str) -> None:
        self.stage.cache.clear(f"file://{self.stage.files}/{name}")


class Edit(Write):
    way = "edit"

    def run(self, name: str) -> None:
        with getattr(self.stage.path(name), self.way)() as path:
            Path(path).write_bytes(NEW)


class WriteByName(Edit):
    way = "writing"


class HttpRead(ColdRead):
    stage_type = HttpStage


class HttpWrite(Write):
    stage_type = HttpStage


class FirstRead(ColdRead):
    is_first_use = True


class FirstWrite(Write):
    is_first_use = True

    def prepare(self, name: str) -> None:
        super().prepare(name)
        unclosed._queue._begin_process()


class LocalCopy(WarmRead):
    def run(self, name: str) -> None:
        with self.stage.path(name).local() as path:
            assert Path(path).read_bytes() == OLD


class LocalSiblings(WarmRead):
    """Two objects of a stem."""

    def prepare(self, name: str) -> None:
        super().prepare(name)
        self.stage.plant(f"{name}.shx")

    def run(self, name: str) -> None:
        with self.stage.path(name).local(siblings=True) as path:
            assert Path(path).read_bytes() == Path(f"{path}.shx").read_bytes() == OLD


class PathToCreate(Scene):
    """A tool makes a file, which is pushed."""

    def run(self, name: str) -> None:
        path = self.stage.path(f"{name}-made")
        Path(path).write_bytes(NEW)
        path.push()

    def check(self, name: str, is_done: bool) -> str | None:
        made = self.stage.path(f"{name}-made")
        content = self.stage.content(made.name)
        if content is None and not is_done:
            made.drop()
        elif content != NEW:
            return f"the pushed object has {content!r:.40}"
        return super().check(name, is_done)


class PushDirectory(Listing):
    """What a tool made in a local directory, and an edit of it."""

    def run(self, name: str) -> None:
        directory = self.stage.path(f"{name}-dir")
        local = Path(directory)
        (local / "one").write_bytes(NEW)
        (local / "three").write_bytes(NEW)
        directory.push()

    def check(self, name: str, is_done: bool) -> str | None:
        contents = [self.stage.content(f"{name}-dir/{one}") for one in ("one", "two", "three")]
        if is_done and contents != [NEW, OLD, NEW]:
            return f"it returned, and the cloud has {contents!r:.99}"
        if contents[0] not in (OLD, NEW) or contents[1] != OLD or contents[2] not in (None, NEW):
            return f"a half object: {contents!r:.99}"
        for one in ("one", "three"):
            self.stage.path(f"{name}-dir/{one}").drop()
        return super().check(name, is_done)


class Touch(Scene):
    def run(self, name: str) -> None:
        self.stage.path(f"{name}-touched").touch()

    def check(self, name: str, is_done: bool) -> str | None:
        content = self.stage.content(f"{name}-touched")
        self.stage.path(f"{name}-touched").drop()
        if content not in (b"", None) or (is_done and content is None):
            return f"after the touch: {content!r:.40}"
        return super().check(name, is_done)


class Transfer(Scene):
    """A copy of two objects: none of them is half, and nothing else is left at the target."""

    def prepare(self, name: str) -> None:
        super().prepare(name)
        self.stage.plant(f"{name}-dir/one")
        self.stage.plant(f"{name}-dir/two")

    def source(self, name: str) -> pathapi.CloudPath:
        return self.stage.path(f"{name}-dir")

    def target(self, name: str) -> Path:
        """Return the directory that is looked at afterwards."""
        return self.stage.files / f"{name}-copy"

    def check(self, name: str, is_done: bool) -> str | None:
        target = self.target(name)
        found = {path.name: path.read_bytes() for path in target.glob("*")}
        complete = {"one": OLD, "two": OLD}
        if not found.items() <= complete.items() or (is_done and found != complete):
            return f"after the copy: {found!r:.99}"
        shutil.rmtree(target, ignore_errors=True)
        return super().check(name, is_done)


class CopyTree(Transfer):
    def run(self, name: str) -> None:
        self.source(name).copytree(self.stage.path(f"{name}-copy"))


class DownloadTree(Transfer):
    def target(self, name: str) -> Path:
        return self.stage.files.parent / f"{name}-copy"

    def run(self, name: str) -> None:
        self.source(name).download_to(self.target(name))


class UploadTree(Transfer):
    def run(self, name: str) -> None:
        self.stage.path(f"{name}-copy").upload_from(self.stage.files / f"{name}-dir")


class CopyInto(Transfer):
    def run(self, name: str) -> None:
        for one in ("one", "two"):
            (self.source(name) / one).copy_into(self.stage.path(f"{name}-copy/"))


class CopyIntoLocal(DownloadTree):
    def run(self, name: str) -> None:
        self.target(name).mkdir()
        for one in ("one", "two"):
            (self.source(name) / one).copy(self.target(name))


class RemoveTree(Listing):
    def run(self, name: str) -> None:
        self.stage.path(f"{name}-dir").rmtree()

    def check(self, name: str, is_done: bool) -> str | None:
        contents = [self.stage.content(f"{name}-dir/{one}") for one in ("one", "two")]
        if not set(contents) <= {OLD, None} or (is_done and any(contents)):
            return f"after rmtree: {contents!r:.99}"
        return super().check(name, is_done)


class Patched(WarmRead):
    """Python's own functions are as before afterwards."""

    before = builtins.open, os.listdir, os.path.join, glob.glob, pathapi.CloudPath.__fspath__

    def run(self, name: str) -> None:
        path = self.stage.path(name)
        with patch_all_builtins(), open(path, "rb") as file:  # type: ignore[call-overload, unused-ignore]
            if file.read() != OLD or not os.path.exists(path):
                raise AssertionError("wrong bytes")

    def check(self, name: str, is_done: bool) -> str | None:
        now = builtins.open, os.listdir, os.path.join, glob.glob, pathapi.CloudPath.__fspath__
        if now != self.before:
            builtins.open, os.listdir, os.path.join, glob.glob, fspath = self.before
            pathapi.CloudPath.__fspath__ = fspath  # type: ignore[method-assign]
            return "a patch is left"
        return super().check(name, is_done)


class DoubleRead(ColdRead):
    """Of a local double of S3, with a glob by one listing."""

    stage_type = DoubleStage

    def prepare(self, name: str) -> None:
        super().prepare(name)
        self.stage.plant(f"{name}-dir/one")

    def run(self, name: str) -> None:
        super().run(name)
        if len(list(self.stage.path(f"{name}-dir").glob("**/*"))) != 1:
            raise AssertionError("a wrong listing")


class DoubleWrite(Write):
    stage_type = DoubleStage


SCENES: Final[dict[str, type[Scene]]] = {
    "warm-hit": WarmHit,
    "warm-read": WarmRead,
    "cold-read": ColdRead,
    "cold-open": ColdOpen,
    "fspath": Fspath,
    "directory": LocalDirectory,
    "write": Write,
    "text-write": TextWrite,
    "text-close": TextClose,
    "append": Append,
    "edit": Edit,
    "writing": WriteByName,
    "rename": Rename,
    "unlink": Unlink,
    "listing": Listing,
    "prefetch": Prefetch,
    "collect": Collect,
    "clear": Clear,
    "http-read": HttpRead,
    "http-write": HttpWrite,
    "first-read": FirstRead,
    "first-write": FirstWrite,
}
SAMPLED: Final[dict[str, type[Scene]]] = {
    "local": LocalCopy,
    "siblings": LocalSiblings,
    "create": PathToCreate,
    "push-directory": PushDirectory,
    "touch": Touch,
    "copytree": CopyTree,
    "download-tree": DownloadTree,
    "upload-tree": UploadTree,
    "copy-into": CopyInto,
    "copy-into-local": CopyIntoLocal,
    "rmtree": RemoveTree,
    "patched": Patched,
    "double-read": DoubleRead,
    "double-write": DoubleWrite,
}
"""Calls that share most of their points with those above: `--full` draws some of them, too."""
