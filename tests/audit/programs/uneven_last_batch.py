"""Wrong: the last batch of an epoch is short, and its rows count for more."""

import keras
import numpy as np
import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()


def main():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(50, 3)).astype("float32"), rng.normal(size=(50, 1))
    with strategy.scope():
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile(loss=keras.losses.MeanSquaredError(), optimizer="sgd")  # here
    model.fit(
        x,
        y,
        batch_size=16,
        callbacks=[keras.callbacks.EarlyStopping(monitor="loss")],
        verbose=0,
    )
    raise RuntimeError("the script was trained to its end")


if __name__ == "__main__":
    main()
