from impasto_server.triton.gate import TritonPythonModel as TritonPythonModel
