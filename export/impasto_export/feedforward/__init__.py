"""Feed-forward nets: a photo and a style vector in, a painting out. People's files → Net → ONNX, without torch."""
