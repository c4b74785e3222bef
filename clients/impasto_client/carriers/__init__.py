"""Where picture files keep texts: chunks of PNG and WebP, segments of JPEG. Pixels are never decoded or encoded."""
