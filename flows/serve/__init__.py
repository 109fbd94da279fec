"""`atlas serve`: the prediction service, its API and its page.

- `command` starts the service; `settings` has its limits.
- `model_holder` loads the model and exchanges it while requests are answered; `served_model` is one loaded model.
- `batching` predicts the images of concurrent requests in batches; `prediction` turns requests into rows of batches.
- `images` decodes images; `urls` downloads them under the rules of the crawler; `explanation` draws the attention.
- `schemas` defines requests and responses; `problems` the error responses; `routes`, `open_inference` and `page` the
  endpoints; `app` joins them.
- `request_limits` bounds requests and measures them; `metrics` are the Prometheus metrics.
- `feedback` appends users' corrections to the review queue.
"""
