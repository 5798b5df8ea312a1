"""The measuring process of one variant at one number of threads: `python -m stcq.profiling.worker`.

It reads requests and writes replies, one JSON object a line: {"do": "open", ...}, {"do": "turn", ...}. Each variant
has a process of its own, so memory can be told apart and the thread pool of one does not spin while another runs.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

from ..errors import StcqError
from ..runtime.backends import open_backend
from ..runtime.codec import Codec
from ..runtime.images import open_image
from .memory import memory
from .quantiles import is_stable
from .stages import Stage, stages

FEWEST = 2  # rounds in a turn, of which the first only warms the caches


class Worker:
    """An open codec and its stages by batch."""

    def __init__(self) -> None:
        self.stages: dict[int, list[Stage]] = {}

    def open(self, request: dict[str, Any]) -> dict[str, Any]:
        """Open the codec and encode and decode once, looking at time and memory at each step."""
        open_backend(request["backend"])  # imports its library
        picture, seen, start = base64.b64decode(request["picture"]), {"library": memory()}, time.perf_counter()
        codec = Codec.load(
            request["bundle"], variant=request["variant"], policy=request["policy"], threads=request["threads"]
        )
        packet = codec.encode(open_image(picture))
        seconds = {"open_and_first_encode": time.perf_counter() - start}
        seen["encode"] = memory()
        if "decode" in request["kinds"]:
            start = time.perf_counter()
            codec.decode(packet)
            seconds["open_and_first_decode"] = time.perf_counter() - start
            seen["decode"] = memory()
        for batch in request["batches"]:
            self.stages[batch] = stages(codec, [picture] * batch, request["kinds"])
        described = [stage.to_dict() for stage in self.stages[request["batches"][0]]]
        return {"stages": described, "seconds": seconds, "memory": seen, "precision": codec.precision}

    def warm_up(self, request: dict[str, Any]) -> dict[str, Any]:
        """Rounds until their times are stable, or the limit in seconds."""
        totals: list[float] = []
        end = time.monotonic() + request["seconds"]
        while not is_stable(totals) and time.monotonic() < end:
            totals.append(sum(round_of(self.stages[request["batch"]])))
        return {"rounds": len(totals), "stable": is_stable(totals)}

    def turn(self, request: dict[str, Any]) -> dict[str, Any]:
        """Rounds for some seconds: milliseconds of every stage in each, and the CPU seconds that this took."""
        chosen, used = self.stages[request["batch"]], time.process_time()
        rounds: list[list[float]] = []
        end = time.monotonic() + request["seconds"]
        while len(rounds) < FEWEST or time.monotonic() < end:
            rounds.append(round_of(chosen))
        columns = [list(column) for column in zip(*rounds[1:], strict=True)]
        times = {stage.name: column for stage, column in zip(chosen, columns, strict=True)}
        return {"times": times, "cpu": time.process_time() - used}


def round_of(chosen: Sequence[Stage]) -> list[float]:
    """Milliseconds of each stage, run one after the other."""
    times = []
    for stage in chosen:
        start = time.perf_counter()
        stage.run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer until the requests end."""
    worker = Worker()
    actions = {"open": worker.open, "warm_up": worker.warm_up, "turn": worker.turn}
    for line in requests:
        request = json.loads(line)
        try:
            reply = actions[request["do"]](request)
        except StcqError as error:
            reply = {"error": str(error), "kind": type(error).__name__}
        except ImportError as error:  # a library that is there and does not load
            reason = str(error).splitlines()[0]
            reply = {
                "error": f"{request.get('backend')} does not load: {reason}; see stcq doctor",
                "kind": "ImportError",
            }
        except MemoryError:
            reply = {"error": "out of memory; use a smaller batch", "kind": "MemoryError"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def main() -> None:
    """Talk over standard input and output; what libraries print goes to standard error."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError):  # who asked is gone
        serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
