"""Prometheus metrics of the service, in a registry of their own. No label has a value from a request."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        registry = self.registry
        self.requests = Counter("atlas_requests", "Answered requests", ["route", "method", "status"], registry=registry)
        self.seconds = Histogram(
            "atlas_request_seconds",
            "Time from the head of a request to its answer",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.in_progress = Gauge("atlas_requests_in_progress", "Requests that are being answered", registry=registry)
        self.errors = Counter(
            "atlas_errors", "Images and requests that were not predicted", ["reason"], registry=registry
        )
        self.batch = Histogram("atlas_batch_images", "Rows of the model's batches", buckets=IMAGES, registry=registry)
        self.batch_seconds = Histogram(
            "atlas_batch_seconds", "Time of the model for a batch", buckets=SECONDS, registry=registry
        )
        self.queue = Gauge("atlas_queue_images", "Images that wait for the model", registry=registry)
        self.predictions = Counter("atlas_predictions", "Predicted items", ["status", "band"], registry=registry)
        self.feedback = Counter(
            "atlas_feedback", "Feedback written to the review queue", ["verdict"], registry=registry
        )
        self.model = Gauge(
            "atlas_model_info", "The model that answers", ["name", "version", "engine"], registry=registry
        )
        self.model_loaded = Gauge("atlas_model_loaded_timestamp_seconds", "When it was loaded", registry=registry)
        self.swaps = Counter("atlas_model_swaps", "New models, by what happened to them", ["result"], registry=registry)
        self.refused = Gauge(
            "atlas_model_refused",
            "1: a new model in the folder was refused, and the previous one answers",
            registry=registry,
        )
        self.ready = Gauge("atlas_ready", "1: the service accepts work", registry=registry)

    def exposition(self) -> bytes:
        """All metrics, in Prometheus's text format."""
        return generate_latest(self.registry)
