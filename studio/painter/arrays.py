"""The kinds of arrays that pictures are made of."""

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]  # colours and coverages in 0..1
Points = NDArray[np.float64]  # [n, 2], x grows right, y grows down
Mask = NDArray[np.bool_]
