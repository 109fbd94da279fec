"""Reading pages: `generic` reads any shop's; what an odd one needs is a YAML profile or a module, named after it.

Nothing here makes a request or knows a label: a page that somebody else fetched goes in, what it says comes out. The
way in is `registry`: which shop a host belongs to, and its two kinds of pages read. A new profile gets saved pages with
the expected items in tests/pages/ (`atlas crawl record`), and that is all.
"""
