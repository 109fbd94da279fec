"""Recrawling, drift and notifications.

`recrawl` starts a new crawl, `snapshots` reads the products of earlier ones, `drift` compares two crawls,
`drift_report` formats the comparison, `notify` posts to a webhook.
"""
