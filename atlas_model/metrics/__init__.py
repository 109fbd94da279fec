"""`scores`: micro, macro and weighted F, hierarchical F. `bootstrap`: confidence intervals and paired differences.

`proportions`: the confidence interval of a share.
"""
