"""Paint films: frames in order, smoothed along their motion, and files. OpenCV and PyAV are imported when needed."""
