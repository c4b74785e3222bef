"""Operation: the operator's commands and the server's processes."""
