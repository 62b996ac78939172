"""From gradients to findings: probes, how they are compared, and a table of checks."""
