"""An adversarial pair on four replicas: two optimizers, critic steps, a penalty.

The model is a Wasserstein GAN with gradient penalty, written as Keras' own examples
write it: `compile` takes two optimizers and keeps them as attributes, and the step
updates the critic twice and the generator once, each from raw `reduce_mean`s.
`distloss.prepare(model)` finds both optimizers. Each of the three updates sums its
gradients by the rows that they are of, and clips them after that; plain Keras clips
those of each replica, and adds them up.

The noise and the points of the penalty, which belong to rows, come with them from the
data set: drawn in the step, they would be others on four replicas than on one device.
"""

import keras
import numpy as np
import tensorflow as tf
from _own_steps import ROWS, compare
from sklearn.datasets import load_digits

PIXELS, LATENT, CRITIC_STEPS = 64, 8, 2


class Adversarial(keras.Model):
    """A generator of digits, and a critic that tells them from real ones."""

    def __init__(self):
        super().__init__()
        self.generator = network(LATENT, PIXELS)
        self.critic = network(PIXELS, 1)
        self.built = True  # the two networks are, and there is no call to build

    def compile(self, critic_optimizer, generator_optimizer):
        """Takes two optimizers, of which Keras knows nothing."""
        super().compile()
        self.critic_optimizer = critic_optimizer
        self.generator_optimizer = generator_optimizer

    def train_step(self, data):
        """Two updates of the critic, and one of the generator."""
        real, noise, place = data
        for step in range(CRITIC_STEPS):
            with tf.GradientTape() as tape:
                fake = self.generator(noise[:, step], training=True)
                difference = self.critic(fake) - self.critic(real)
                between = fake + place[:, step] * (real - fake)
                critic_loss = tf.reduce_mean(difference) + 10 * self.penalty(between)
            weights = self.critic.trainable_weights
            gradients = tape.gradient(critic_loss, weights)
            self.critic_optimizer.apply_gradients(zip(gradients, weights, strict=True))
        with tf.GradientTape() as tape:
            fake = self.generator(noise[:, CRITIC_STEPS], training=True)
            generator_loss = -tf.reduce_mean(self.critic(fake))
        weights = self.generator.trainable_weights
        gradients = tape.gradient(generator_loss, weights)
        self.generator_optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return {"critic": critic_loss, "generator": generator_loss}

    def penalty(self, between):
        """How far the norm of the critic's gradient is from 1."""
        with tf.GradientTape() as tape:
            tape.watch(between)
            score = self.critic(between)
        norms = tf.norm(tape.gradient(score, between), axis=1)
        return tf.reduce_mean((norms - 1) ** 2)


def network(size_in, size_out):
    # a smooth activation: the penalty differentiates twice
    layers = [keras.layers.Dense(16, "tanh"), keras.layers.Dense(size_out)]
    return keras.Sequential([keras.Input([size_in]), *layers])


def adam():
    # The bias of the critic cancels in differences of scores: its gradient is rounding,
    # of which Adam makes steps of full size, unless epsilon is larger than that.
    return keras.optimizers.Adam(0.01, 0.5, epsilon=1e-3, global_clipnorm=1.0)


def build(prepare):
    """The compiled model; `prepare` is `distloss.prepare`, or leaves it as it is."""
    model = Adversarial()
    model.compile(critic_optimizer=adam(), generator_optimizer=adam())
    return prepare(model)  # <- the one line


def digits():
    pixels, _ = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    noise = random.normal(size=[ROWS, CRITIC_STEPS + 1, LATENT])
    place = random.uniform(size=[ROWS, CRITIC_STEPS, 1])
    return tuple(x.astype("float32") for x in (pixels[:ROWS] / 16, noise, place))


def main():
    compare(build, digits())


if __name__ == "__main__":
    main()
