"""The audit: runs a user's step in child processes, and judges."""
