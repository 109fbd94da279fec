"""Picture URLs to pictures: each distinct URL asked for once, each outcome with a reason, nothing lost on a kill.

`client` makes one attempt, `hosts` says when the next one may start, `download` goes through all URLs, `spool`
keeps what has arrived, `collect` writes the sorted outputs, `pictures` puts these together.
"""
