"""impasto_deploy: several servers as one, past one machine.

`ray` is a Ray Serve application (docs/ray.md).
"""
