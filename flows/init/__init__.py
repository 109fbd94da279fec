"""`atlas init`: `command` inspects the data and writes params.yaml; `choices` selects values; `report` explains."""
