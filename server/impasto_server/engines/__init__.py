"""What runs compiled graphs: the engines, and what each of them needs to know of this machine."""
