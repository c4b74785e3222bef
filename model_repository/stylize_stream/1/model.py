"""What Triton loads as the model `stylize_stream`; its code is impasto_server/triton/stream.py."""

from impasto_server.triton.stream import TritonPythonModel as TritonPythonModel
