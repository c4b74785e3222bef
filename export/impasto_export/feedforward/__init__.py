"""Link feed-forward style nets, which turn a photo and a style vector into a painting: file → Net → ONNX, no torch."""
