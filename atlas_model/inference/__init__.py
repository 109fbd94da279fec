"""Prediction with a trained model.

`predictor`: images and titles to category paths. `batch`, `batch_products`: any number of images to Parquet. `engines`:
runtimes for the encoder. `export`: ONNX and OpenVINO. `quantization`: int8.
"""
