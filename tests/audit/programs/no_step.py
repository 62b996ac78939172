"""Trains nothing: it only looks at a model."""

import keras

model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
model.summary()
