"""What Triton loads as the model `gate`; its code is impasto_server/triton/gate.py."""

from impasto_server.triton.gate import TritonPythonModel as TritonPythonModel
