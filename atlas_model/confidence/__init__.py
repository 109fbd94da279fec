"""Calibration and selective prediction (docs/confidence.md).

`calibration`: temperature scaling, calibration error, predictions cut off at a minimum confidence. `products`: one
prediction from all images of a product. `risk_control`: thresholds that guarantee a requested accuracy. `guarantees`:
the thresholds of a trained model.
"""
