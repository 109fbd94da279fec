"""Training.

`loop`: epochs, optimizer, early stopping. `state`: the checkpoint that a killed run resumes from. `validation`: the
score of an epoch. `moving_average`: averaged weights. `feature_cache`: outputs of frozen blocks, computed once.
`distributed`: several processes.
"""
