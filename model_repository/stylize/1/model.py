"""What Triton loads as the model `stylize`; its code is impasto_server/triton/stylize.py."""

from impasto_server.triton.stylize import TritonPythonModel as TritonPythonModel
