"""What `prepare` does to a compiled model."""
