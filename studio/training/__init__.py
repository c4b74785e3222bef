"""What recipes train with: a loop that goes on where it stopped, optimisers, averages, workers."""
