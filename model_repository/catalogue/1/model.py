"""What Triton loads as the model `catalogue`; its code is impasto_server/triton/catalogue.py."""

from impasto_server.triton.catalogue import TritonPythonModel as TritonPythonModel
