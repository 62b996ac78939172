"""What was found, in words and in each format."""
