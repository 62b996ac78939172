"""What is the number? Sums, weights, shares, and who divides when."""
