"""What hardware a model needs, and how fast it is there: pure estimates over tables of facts."""
