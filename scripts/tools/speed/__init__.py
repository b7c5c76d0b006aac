"""`benchmark speed` and `onnx`: ratios against stated references."""
