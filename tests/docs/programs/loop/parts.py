import keras
import tensorflow as tf

strategy = tf.distribute.MirroredStrategy()
with strategy.scope():
    model = keras.Sequential([keras.Input([8]), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(0.1)
rows = tf.data.Dataset.from_tensors((tf.ones([8, 8]), tf.ones([8, 1])))
data = strategy.experimental_distribute_dataset(rows)
