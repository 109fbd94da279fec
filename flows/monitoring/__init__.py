"""What happens between two crawls.

`recrawl` starts a new crawl; `snapshots` are the products of earlier ones; `drift` compares them, and `drift_report`
shows it; `notify` posts to a webhook.
"""
