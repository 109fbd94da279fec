"""The report of a run as one HTML file, and the model card and the data card.

`facts` collects what they state. `thumbnails` makes the images and limits their size, `charts`, `forest` and `funnel`
compute what is drawn, and `page` fills in the templates. `cards` writes the two cards, `front_matter` their YAML.

Nothing here reads the clock or the network: the same files give the same bytes.
"""
