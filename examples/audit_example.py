"""Is it right? `distloss audit` on the training step that one has.

`build` is what the audit wants: a model and one global batch. This one has a bug that
no loss curve shows: its loss returns a scalar, which Keras 3 does not divide by the
number of replicas. `mended` is the same model, prepared.

    distloss audit examples/audit_example.py:build
    distloss audit examples/audit_example.py:mended

Printed: what the audit finds in each.
"""

import keras
import numpy as np


def compiled():
    model = keras.Sequential(
        [keras.Input([8]), keras.layers.Dense(16, "relu"), keras.layers.Dense(1)]
    )

    def scalar_loss(y_true, y_pred):
        return keras.ops.mean((y_true - y_pred) ** 2)

    model.compile("adam", scalar_loss)
    return model


def batch():
    random = np.random.default_rng(1)
    x = random.normal(size=[30, 8]).astype("float32")
    return x, x[:, :1] ** 2


def build():
    return compiled(), batch()


def mended():
    import distloss

    model = compiled()
    model.compile("adam", "mse")
    return distloss.prepare(model), batch()


def main():
    import distloss

    wrong = distloss.audit(build, replicas=(1, 2))
    right = distloss.audit(mended, replicas=(1, 2))
    for finding in wrong.findings:
        print(f"build: {finding.cause}, {finding.scale:.3g} times: {finding.remedy}")
    print(f"mended: {'agrees' if right.agrees else 'differs'}")
    if [f.cause for f in wrong.findings] != ["sum-of-means"] or not right.agrees:
        raise SystemExit("one finding was expected, then none")


if __name__ == "__main__":
    main()
