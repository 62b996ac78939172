"""What the benchmarks measure, and how they tell it."""
