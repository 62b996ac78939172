"""What is wrong, by which cause, and how sure that is."""
