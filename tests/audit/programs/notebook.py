#!/usr/bin/env python
"""Right: a notebook exported as a script, with class weights and no strategy."""

# In[1]:

import keras
import numpy as np

# # Data

# In[2]:

rng = np.random.default_rng(5)
x_train = rng.normal(size=(96, 4)).astype("float32")
y_train = (x_train[:, 0] > 0).astype("float32")

# In[3]:

inputs = keras.Input(shape=(4,))
outputs = keras.layers.Dense(1, activation="sigmoid")(inputs)
model = keras.Model(inputs, outputs)
model.summary()
model.compile(optimizer="rmsprop", loss="binary_crossentropy", metrics=["accuracy"])
model.evaluate(x_train, y_train, verbose=0)

# In[4]:

history = model.fit(
    x_train, y_train, validation_data=(x_train, y_train), class_weight={0: 1.0, 1: 3.0}
)

# In[5]:

raise RuntimeError("the script was trained to its end")
