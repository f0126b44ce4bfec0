"""Run by a Python with tensorflow-cpu: writes the checkpoint in this folder, and what TensorFlow reads of it.

The variables are MobileNet V1's, as TF-slim names and shapes them, with 8 channels in every layer; besides a step, a
half-precision variable and a piece of text.
"""

import hashlib
from pathlib import Path

import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent
CHANNELS = 8
random = np.random.default_rng(0)


def norm(layer):
    """A batch norm's variables."""
    kinds = ("gamma", "beta", "moving_mean", "moving_variance")
    return {f"MobilenetV1/{layer}/BatchNorm/{kind}": 0.5 + random.random(CHANNELS) for kind in kinds}


values = {"MobilenetV1/Conv2d_0/weights": random.normal(size=(3, 3, 3, CHANNELS)), **norm("Conv2d_0")}
for n in range(1, 14):
    depthwise, pointwise = f"Conv2d_{n}_depthwise", f"Conv2d_{n}_pointwise"
    values |= {f"MobilenetV1/{depthwise}/depthwise_weights": random.normal(size=(3, 3, CHANNELS, 1)), **norm(depthwise)}
    values |= {f"MobilenetV1/{pointwise}/weights": random.normal(size=(1, 1, CHANNELS, CHANNELS)), **norm(pointwise)}
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    for name, value in values.items():
        tf.compat.v1.get_variable(name, initializer=value.astype(np.float32), use_resource=False)
    tf.compat.v1.get_variable("global_step", initializer=np.int64(7))
    tf.compat.v1.get_variable("half", initializer=np.float16([[0.5, -2]]))
    tf.compat.v1.get_variable("text", initializer=np.array(["words"]))
    session.run(tf.compat.v1.global_variables_initializer())
    tf.compat.v1.train.Saver().save(session, str(HERE / "v1.ckpt"), write_meta_graph=False)
(HERE / "checkpoint").unlink()
reader = tf.train.load_checkpoint(str(HERE / "v1.ckpt"))
lines = []
for name in sorted(set(reader.get_variable_to_shape_map()) - {"text"}):
    array = reader.get_tensor(name)
    sha256 = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
    lines.append(f"{name} {array.dtype} {'x'.join(map(str, array.shape))} {sha256}\n")
(HERE / "read_by_tensorflow.txt").write_text("".join(lines))
