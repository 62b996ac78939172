"""Everything private that we know of Keras: the one door to its private names."""
