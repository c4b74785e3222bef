"""What an operator runs: the commands, and the server's processes."""
