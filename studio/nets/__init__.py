"""Networks in torch: their shapes, and their folders."""
