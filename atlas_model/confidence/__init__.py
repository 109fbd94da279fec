"""How far a prediction can be trusted (docs/confidence.md).

`calibration`: temperature scaling and calibration error. `products`: one prediction for all images of a product.
`risk_control`, `guarantees`: thresholds that keep a requested accuracy.
"""
