"""The category model: an encoder's cells to a category path.

`decoder`: attention LSTM, level by level. `path_head`: a classifier's vote for each path. `teacher_forcing`: the
decoder along known paths. `beam_search`, `exact_search`: search constrained to the taxonomy. `categorizer`: all of it
as one model; `classifier`: the plain classifier as a baseline. `architecture`: what both are built from. `evidence`:
images and titles combined. `saved_models`: saving and loading.
"""
