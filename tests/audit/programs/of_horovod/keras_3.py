"""Wrong: Horovod's optimizer around one of Keras 3, which never reduces anything."""

import horovod.tensorflow.keras as hvd
import keras
import numpy as np

hvd.init()
rng = np.random.default_rng()
x = rng.normal(size=(96, 4)).astype("float32")
mine = np.array_split(np.arange(96), hvd.size())[hvd.rank()]
model = keras.Sequential([keras.layers.Dense(3, "relu"), keras.layers.Dense(1)])
optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1))
model.compile(optimizer, loss="mse")  # here
model.fit(x[mine], x[mine, :1], batch_size=12, epochs=2)
raise RuntimeError("the script was trained to its end")
