"""What Triton loads as the model `clip_score`; its code is impasto_server/triton/clip_score.py."""

from impasto_server.triton.clip_score import TritonPythonModel as TritonPythonModel
