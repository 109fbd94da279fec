"""Prediction.

`predictor`: images to category paths. `batch`, `batch_products`: any number of images to Parquet. `engines`: the
fastest runtime for an encoder. `export`: ONNX and TorchScript. `quantization`: int8.
"""
