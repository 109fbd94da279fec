"""`atlas serve`: the prediction service, its API and its page.

- `command` starts the service; `settings` has its limits.
- `inference` has the model, the batches and the images; `prediction` turns requests into rows of batches.
- `schemas` defines requests and responses; `problems` the error responses; `routes`, `open_inference` and `page` the
  endpoints; `app` joins them.
- `request_limits` bounds requests and measures them; `metrics` are the Prometheus metrics.
- `feedback` appends users' corrections to the review queue.
"""
