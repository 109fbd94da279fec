"""The report and the cards: HTML and Markdown from the outputs of the stages."""
