"""Limits of the service. The command line sets them: they belong to an installation, not to a project."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of one service."""

    max_batch: int  # images that the model predicts together
    max_wait_s: float  # longest time that an image waits for others of its batch
    max_queue: int  # images that wait for the model; further requests get 503
    max_images: int  # images of a request, and items of a request
    max_image_bytes: int  # of one image
    max_pixels: int  # of one image, width x height
    max_body_bytes: int  # of a request's body
    max_requests: int  # requests at once; further ones get 503
    timeout_s: float  # of a request: for its body, for a URL, and for the prediction

    @property
    def max_buffered_bytes(self) -> int:
        """Bytes of all bodies at once, which bounds memory."""
        return 4 * self.max_body_bytes
