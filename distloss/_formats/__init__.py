"""Formats of other tools for what we find: `github` and `sarif`, for lint and audit."""
