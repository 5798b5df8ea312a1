"""Prometheus metrics of one server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """The counters; each server has its own registry, so that two can live in one process."""

    def __init__(self) -> None:
        """All at zero."""
        self.registry = registry = CollectorRegistry()
        self.batches = Counter("stcq_batches", "Batches answered.", ["result"], registry=registry)
        self.stored = Counter("stcq_faces_stored", "Faces stored.", ["device"], registry=registry)
        self.duplicates = Counter("stcq_faces_duplicate", "Faces that had come before.", ["device"], registry=registry)
        self.bytes = Counter("stcq_received_bytes", "Bytes of accepted batches.", ["device"], registry=registry)
        self.erased = Counter("stcq_faces_erased", "Faces erased.", ["reason"], registry=registry)
        self.pictures = Counter("stcq_pictures_decoded", "Pictures decoded (not from the cache).", registry=registry)
        self.seconds = Histogram("stcq_ingest_seconds", "From a whole batch to its commit.", registry=registry)
        self.last = Gauge(
            "stcq_last_batch_timestamp_seconds", "When a device's last batch came.", ["device"], registry=registry
        )

    def text(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self.registry)
