"""What we know of Keras that is private or differs between releases, by subject."""
