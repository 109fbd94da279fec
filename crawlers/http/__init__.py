"""HTTP code that all clients share: crawl, image fetch, robots.txt, `atlas crawl try`, and the browser's proxy.

- `policy`: transient statuses, retries, redirects, validators.
- `session`: the aiohttp session with the checks of `address_guard`; `heads`: tolerant parsing of response headers.
- `endings`: detection of truncated bodies whose length no header proves.
- `urls`: normalisation of URLs for requests; `content`: decoding of Content-Encoding.
- `robots_txt`, `robots_tag`, `user_agent`, `host_limits`: rules for robots and request rates.
- `chromium`: search for the browser's executable.
"""
