"""The half of the audit that loads TensorFlow, in child processes."""
