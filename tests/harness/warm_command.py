"""The command ``casstore`` in processes that need not import the SDKs: forks of one that has.

Importing boto3 and the other SDKs takes two thirds of a command's processor time. With ``--full`` each command is a
process of its own from the start.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from tests.harness.sampling import by_pass

_REPOSITORY = Path(__file__).parents[2]


class RunCasstore(Protocol):
    def __call__(
        self, *arguments: str, env: Mapping[str, str], cwd: Path | None = None, umask: int = -1
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``casstore`` with *arguments* in exactly the environment *env*, without a terminal."""
        ...


@contextlib.contextmanager
def command_runner() -> Iterator[RunCasstore]:
    """Yield a function that runs ``casstore``: warm in the quick pass, cold with ``--full``."""
    if by_pass(quick=False, full=True):
        yield _run_cold
        return
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.harness.warm_command"],
        cwd=_REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None and server.stdout is not None
    questions, answers = server.stdin, server.stdout

    def run_warm(
        *arguments: str, env: Mapping[str, str], cwd: Path | None = None, umask: int = -1
    ) -> subprocess.CompletedProcess[bytes]:
        with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
            request = {
                "arguments": arguments,
                "environment": dict(env),
                "directory": str(cwd or os.getcwd()),
                "umask": umask,
                "outputs": [out.name, err.name],
            }
            questions.write(json.dumps(request) + "\n")
            questions.flush()
            status = int(answers.readline())
            return subprocess.CompletedProcess(["casstore", *arguments], status, out.read(), err.read())

    try:
        yield run_warm
    finally:
        server.kill()
        server.wait()
        answers.close()
        with contextlib.suppress(BrokenPipeError):
            questions.close()


def in_text(done: subprocess.CompletedProcess[bytes]) -> subprocess.CompletedProcess[str]:
    """Return *done* with its outputs as text."""
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def _run_cold(
    *arguments: str, env: Mapping[str, str], cwd: Path | None = None, umask: int = -1
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "casstore", *arguments], env=env, cwd=cwd, umask=umask, capture_output=True
    )


def _serve() -> None:
    """Fork for each line of the standard input and answer with the fork's status; return in each fork."""
    while line := sys.stdin.readline():
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(request)
            return
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    os._exit(0)


def _become(request: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    if request["umask"] >= 0:
        os.umask(request["umask"])
    for target, path in enumerate((os.devnull, *request["outputs"])):
        descriptor = os.open(path, os.O_RDWR)
        os.dup2(descriptor, target)
        os.close(descriptor)
    sys.argv[1:] = request["arguments"]


if __name__ == "__main__":
    for module in ("azure.storage.blob", "boto3", "google.cloud.storage", "pathapi.cli.main"):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # else the end of each fork looks at all that was imported, which takes as long as the imports
    _serve()
    runpy.run_module("casstore", run_name="__main__", alter_sys=True)
