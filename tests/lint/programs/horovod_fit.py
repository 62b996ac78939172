"""Horovod's Keras example, with Keras 3."""

import horovod.tensorflow.keras as hvd
import keras

hvd.init()  # ! not-sharded
model = keras.Sequential([keras.layers.Dense(10)])
optimizer = hvd.DistributedOptimizer(  # ! not-reduced
    keras.optimizers.Adam(
        0.001 * hvd.size(),
        clipnorm=1.0,  # ! clip-before-sum
    ),
    backward_passes_per_step=2,  # ! accumulation-not-averaged
)
model.compile(loss="mse", optimizer=optimizer)
callbacks = [
    hvd.callbacks.BroadcastGlobalVariablesCallback(0),  # ! horovod-callback
    hvd.callbacks.MetricAverageCallback(),  # ! horovod-callback
]
model.fit([[1.0]], [[1.0]], callbacks=callbacks)
