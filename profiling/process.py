"""The parent's side of a measuring process, and fresh processes for cold starts."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import StcqError

KILLED = 137  # 128 + SIGKILL, as shells and containers say it
CODE = "from stcq.cli import run; run()"


class WorkerProcess:
    """A running profiling/worker.py; use it in `with`."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", "-m", f"{__package__}.worker"]
        pipe = subprocess.PIPE
        # in a session of its own, Ctrl-C reaches this process alone, which ends the worker
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)

    def ask(self, action: str, **fields: Any) -> dict[str, Any]:
        """One request and its reply.

        Raises:
            StcqError: the worker reports an error, or has died (out of memory, a crash inside a library).
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        line = ""
        if stdin is not None and stdout is not None:
            try:
                stdin.write(json.dumps({"do": action, **fields}) + "\n")
                stdin.flush()
                line = stdout.readline()
            except BrokenPipeError:
                pass
        if not line:
            code = self._process.wait()
            killed = code < 0 or code == KILLED
            why = "it may have run out of memory" if killed else "what it printed says why"
            raise StcqError(f"the measuring process ended with code {code}; {why}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise StcqError(reply["error"])
        return reply

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.terminate()  # it may be in the middle of a turn
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # what a dead worker never read
                    stream.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def cold_start(bundle: Path, variant: str, policy: str, threads: int, picture: Path) -> float:
    """Seconds of `stcq encode` on one picture in a fresh process, from start to exit.

    Raises:
        StcqError: it failed.
    """
    options = ["--bundle", str(bundle), "--variant", variant, "--policy", policy, "--threads", str(threads)]
    command = [sys.executable, "-c", CODE, "encode", str(picture), "-o", "-", *options]
    start = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise StcqError(f"stcq encode failed: {said[-1] if said else done.returncode}")
    return seconds
