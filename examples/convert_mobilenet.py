"""Converts MobileNetV2 of keras.applications, stock, with its ReLU6 sites, and profiles it.

    python examples/convert_mobilenet.py                        # random weights, nothing is downloaded
    python examples/convert_mobilenet.py --weights=imagenet     # trained ones, downloaded by Keras

The images are random: this shows conversion and profile. For accuracies on photographs see
`python -m experiments.table1`.
"""

import sys

import keras
import numpy as np
from absl import app, flags

import fs_neurons as fs

FLAGS = flags.FLAGS
flags.DEFINE_enum("weights", "random", ["random", "imagenet"], "Weights of the network.")
flags.DEFINE_integer("size", 96, "Height and width of the images.", lower_bound=32)
flags.DEFINE_integer("images", 4, "Number of images.", lower_bound=1)


def main(argv: list[str]) -> None:
    keras.utils.set_random_seed(0)
    weights = None if FLAGS.weights == "random" else FLAGS.weights
    try:
        model = keras.applications.MobileNetV2(
            input_shape=(FLAGS.size, FLAGS.size, 3), weights=weights
        )
    except Exception as error:  # Keras raises no narrower one where a download fails
        sys.exit(f"convert_mobilenet: no weights ({error})")
    images = np.random.default_rng(0).uniform(-1, 1, (FLAGS.images, FLAGS.size, FLAGS.size, 3))
    images = images.astype("float32")
    if weights is None:
        normalise(model, images)
    print(f"verified: the pass itself changes the outputs by {fs.verify(model):.1g}")

    snn = fs.convert(model)
    print(fs.conversion_report(snn))

    print(fs.profile(snn, images, batch_size=FLAGS.images))


def normalise(model: keras.Model, images: np.ndarray) -> None:
    """Sets batch normalisation from the images: without it, activations vanish under random weights."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)


if __name__ == "__main__":
    app.run(main)
