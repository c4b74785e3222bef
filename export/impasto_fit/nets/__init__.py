"""Networks that look at pictures, and in what numbers they compute."""
