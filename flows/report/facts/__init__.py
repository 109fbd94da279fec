"""What the report and the cards state, read from the files of the stages, as plain dataclasses.

`collect` joins the others: `figures` (metrics and their change since the last accepted model, which `accepted` reads),
`predictions`, `categories` (the taxonomy with counts and scores), `confusions`, `discards` (examples of discarded
images), `sources` (what each shop gave and lost), `quality`, and `caveats`, the warnings. Knows nothing of HTML.
"""
