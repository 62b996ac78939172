"""Everything private that we know of Keras: facts of versions, hooks."""
