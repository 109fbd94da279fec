"""Training of the category model.

`renaming`: a trained model under new category names. `loop`: epochs, optimizer, early stopping. `state`: the checkpoint
from which a killed run resumes. `validation`: the score of an epoch. `moving_average`: averaged weights.
`feature_cache`: outputs of frozen blocks, computed once. `distributed`: data-parallel training in several processes.
"""
