"""Films: frames in order, smoothing along their motion, files. OpenCV and PyAV are imported when they are needed."""
