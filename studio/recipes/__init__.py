"""How each thing under studio/ was made; every module is a script of its own."""
