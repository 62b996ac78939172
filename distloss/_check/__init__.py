"""Is the gradient of a step that of one device? Asked of steps as they are trained."""
