"""`atlas review`: a page on which people correct categories and close-ups.

command    the command: reads the outputs of the stages, starts the server
catalogue  products, images, predictions and quality issues, as the stages wrote them
queues     in which order they are reviewed
images     images from the shards, safe to show
model      alternatives and attention from the trained model
search     type-to-find over the taxonomy
session    the decisions: stored, counted, excluded from the queues
items      what the page shows of a product or an image
app        the HTTP application
"""
