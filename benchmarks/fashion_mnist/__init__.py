"""The published benchmark: the stages `train` and `evaluate` on the official parts of Fashion-MNIST.

`make benchmark-fashion-mnist` is `dvc repro` in this folder, which is a DVC project of its own, so that the project
around it neither runs nor reports these stages. docs/fashion-mnist.md tells what comes of it.
"""
