"""What is read in pictures, to measure by."""
