"""`atlas init`: the `command`, the `choices` of parameters for a data set, and the `report` that explains them."""
