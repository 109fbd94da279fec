"""From images to predictions, for many requests at once. Knows nothing of HTTP requests and responses.

`model_holder` loads the model and exchanges it while requests are answered; `served_model` is one loaded model.
`batching` predicts the images of concurrent requests in batches. `images` decodes images, `urls` downloads them under
the rules of the crawler, `explanation` draws the attention.
"""
