"""HTTP requests for images.

- `client` makes one attempt at one URL; `robots` checks robots.txt, and `body` reads the body.
- `download` fetches all URLs of a process with retries; `hosts` has the state of each host.
- `outcome` defines requests and outcomes.
"""
