"""Building engines on the device and keeping them in the user's cache; none ever comes out of a bundle.

Loading an engine runs native code that lies in it, so only engines that this user built are loaded: the cache folder
must belong to the user and be closed to others, and an engine's SHA-256 must be the one in its sidecar.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from ...errors import BackendError
from ..files import UNZIPPED, cache_folder, replace_file
from .cuda import Gpu
from .tensorrt_recipe import RECIPE, Recipe
from .tensorrt_versions import compute_types, network_flags, set_precision, version_of

log = logging.getLogger("stcq")
WORDS = {
    "onnx": "the graph",
    "tensorrt": "TensorRT",
    "cuda": "CUDA",
    "gpu": "the GPU",
    "precision": "the precision",
    "profile": "the shapes",
}


def default_cache() -> Path:
    """The user's cache folder for engines: $STCQ_CACHE, else stcq/tensorrt in $XDG_CACHE_HOME or ~/.cache."""
    return cache_folder("tensorrt")


class Engines:
    """The engines of one machine.

    Args:
        trt: the tensorrt module.
        gpu: the GPU they are for.
        folder: the cache folder, made if missing.

    Raises:
        BackendError: the folder is open to other users, or cannot be made; or TensorRT is too old.
    """

    def __init__(self, trt: Any, gpu: Gpu, folder: Path) -> None:
        self.trt, self.gpu, self.folder = trt, gpu, folder
        version_of(trt)
        self.logger = make_logger(trt)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            facts = folder.stat()
        except OSError as error:
            raise BackendError(f"the cache folder {folder} cannot be made: {error.strerror}; set STCQ_CACHE") from error
        if os.name == "posix" and (facts.st_uid != os.geteuid() or facts.st_mode & 0o022):
            raise BackendError(
                f"others may write to the cache folder {folder}; run: chmod 700 {folder}, or set STCQ_CACHE"
            )

    def key(self, graph: Path, recipe: Recipe) -> dict[str, Any]:
        """Everything that an engine depends on."""
        if graph.stem not in recipe.profiles:
            raise BackendError(f"{RECIPE} has no profile of {graph.stem}; export the bundle again")
        return {
            "onnx": hash_graph(graph),
            "tensorrt": str(self.trt.__version__),
            "cuda": self.gpu.cuda,
            "gpu": f"{self.gpu.name} {self.gpu.compute}",
            "precision": recipe.precision,
            "profile": recipe.profiles[graph.stem],
        }

    def get(self, graph: Path) -> tuple[bytes, dict[str, Any]]:
        """The engine of a graph, from the cache or built now.

        Args:
            graph: an .onnx file beside its recipe.json.

        Returns:
            The engine's bytes, and its sidecar: "key", "sha256", "types", "seconds", and "cached" (it was there).

        Raises:
            BackendError: TensorRT cannot read or build it, or the engine has not the precision of the recipe.
        """
        recipe = Recipe.load(graph.parent / RECIPE)
        key = self.key(graph, recipe)
        place = str(graph.resolve())
        if UNZIPPED in place:  # elsewhere at every opening
            place = f"{key['onnx']} {recipe.precision}"
        name = f"{graph.stem}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:16]}"
        path, sidecar = self.folder / f"{name}.engine", self.folder / f"{name}.json"
        found = self._load(path, sidecar, key)
        if found:
            return found
        started = time.monotonic()
        content, types = self._build(graph, recipe)
        facts: dict[str, Any] = {"key": key, "sha256": hashlib.sha256(content).hexdigest(), "types": sorted(types)}
        facts["seconds"] = round(time.monotonic() - started, 1)
        try:
            replace_file(path, lambda temporary: temporary.write_bytes(content))
            replace_file(sidecar, lambda temporary: temporary.write_text(json.dumps(facts, indent=2) + "\n"))
        except OSError as error:
            log.warning("the engine of %s is not kept: %s: %s", graph.stem, self.folder, error.strerror)
        return content, facts | {"cached": False}

    def _load(self, path: Path, sidecar: Path, key: dict[str, Any]) -> tuple[bytes, dict[str, Any]] | None:
        """A cached engine that fits; otherwise one plain sentence says why it is built again."""
        try:
            facts = json.loads(sidecar.read_text())
            old = facts["key"]
            changed = [what for what in key if old.get(what) != key[what]]
            content = b"" if changed else path.read_bytes()
            whole = facts["sha256"] == hashlib.sha256(content).hexdigest()
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            log.warning("the cached engine %s is damaged: building it again", path.name)
            return None
        if changed:
            what = changed[0]
            values = "" if what in ("onnx", "profile") else f" from {old.get(what)} to {key[what]}"
            log.warning(
                "%s changed%s: building the engine of %s again", WORDS[what], values, path.stem.rpartition("-")[0]
            )
            return None
        if not whole:
            log.warning("the cached engine %s is damaged: building it again", path.name)
            return None
        return content, facts | {"cached": True}

    def _build(self, graph: Path, recipe: Recipe) -> tuple[bytes, set[str]]:
        """Build an engine and read its types back."""
        trt = self.trt
        builder = trt.Builder(self.logger)
        network = builder.create_network(network_flags(trt))
        parser = trt.OnnxParser(network, self.logger)
        if not parser.parse_from_file(str(graph)):
            errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
            reason = errors[0].splitlines()[0] if errors else "no reason given"
            raise BackendError(f"TensorRT {trt.__version__} cannot read {graph.name}: {reason}")
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, recipe.workspace_mib << 20)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the inspector says no types
        wanted = recipe.types.get(graph.stem, "fp32")
        set_precision(trt, network, config, wanted)
        profile = builder.create_optimization_profile()
        for name, shapes in recipe.profiles[graph.stem].items():
            profile.set_shape(name, shapes["min"], shapes["opt"], shapes["max"])
        config.add_optimization_profile(profile)
        timing = self._timing_cache(config)
        content = builder.build_serialized_network(network, config)
        if content is None:
            raise BackendError(
                f"TensorRT {trt.__version__} cannot build {graph.name}: {self.logger.last or 'no reason given'}"
            )
        self._keep_timings(config, timing)
        data = bytes(content)
        engine = trt.Runtime(self.logger).deserialize_cuda_engine(data)
        if engine is None:
            raise BackendError(f"TensorRT cannot load the engine that it built of {graph.name}: {self.logger.last}")
        inspector = engine.create_engine_inspector()
        types = compute_types(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
        if wanted not in types or (wanted == "fp32" and "fp16" in types):
            raise BackendError(f"{graph.name}: asked for {wanted}, TensorRT built {sorted(types) or 'unknown types'}")
        return data, types

    def _timing_cache(self, config: Any) -> Path:
        """Give the builder what it measured before on this machine; a cache of another machine is ignored."""
        where = json.dumps([str(self.trt.__version__), self.gpu])
        path = self.folder / f"timing-{hashlib.sha256(where.encode()).hexdigest()[:16]}.cache"
        content = path.read_bytes() if path.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(content), False)
        return path

    def _keep_timings(self, config: Any, path: Path) -> None:
        """Save what the builder measured; not worth an error."""
        timings = config.get_timing_cache()
        if timings is None:
            return
        try:
            content = bytes(timings.serialize())
            replace_file(path, lambda temporary: temporary.write_bytes(content))
        except OSError as error:
            log.warning("the timing cache is not kept: %s: %s", self.folder, error.strerror)


def hash_graph(graph: Path) -> str:
    """SHA-256 over a graph and all files of weights beside it."""
    total = hashlib.sha256()
    for path in [graph, *sorted(graph.parent.glob("*.bin"))]:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def make_logger(trt: Any) -> Any:
    """A TensorRT logger that keeps the last error in `last`."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.last = message.splitlines()[0] if message else ""

    return Log()
