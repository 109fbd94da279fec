"""`atlas init`: `command` inspects the data and writes params.yaml.

`choices` and `table_choices` select values, `params_file` writes them, and `report` explains them. `urls` downloads a
sample first, where a table has URLs of images.
"""
