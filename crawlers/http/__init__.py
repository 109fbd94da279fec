"""What HTTP means to all clients of ours alike: pages, images, robots.txt, `atlas crawl try`, and the browser's proxy.

`policy`: which answers are transient, what is retried, how many redirects are followed, what is kept of validators.
`urls`: what is asked for. `content`: what a body says once its Content-Encoding is undone. `heads`: answers that are
not quite HTTP. Knows no client's errors and nothing of what is downloaded.
"""
