"""The report of a run as one HTML file, and the model card and the data card.

`facts` collects what they state, from the files of the stages, as plain dataclasses: `figures` (metrics and their
change since the last accepted model, which `accepted` reads), `predictions`, `categories` (the taxonomy with counts and
scores), `confusions`, `discards` (examples of discarded images), `sources` (what each shop gave and lost) and
`quality`. `caveats` has the warnings. `thumbnails` makes the images and limits their size, `charts`, `forest` and
`funnel` compute what is drawn, and `page` fills in the templates. `cards` writes the two cards, `front_matter` their
YAML.

Nothing here reads the clock or the network: the same files give the same bytes.
"""
