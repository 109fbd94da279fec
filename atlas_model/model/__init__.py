"""The category model: an encoder's cells to a category path.

`decoder`: attention LSTM that predicts one level per step. `teacher_forcing`: its forward and backward pass in
training. `path_head`: a classifier of paths whose logits are added to the decoder's. `beam_search`, `exact_search`:
search constrained to the taxonomy. `evidence`: combines images and titles. `categorizer`: the whole model.
`classifier`: the baseline. `architecture`: the sizes of both. `saved_models`: saving and loading.
"""
