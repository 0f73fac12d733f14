"""Trains a small Swish network on the digits of scikit-learn, converts it with each quality, and compares.

python examples/swish_network.py
"""

import keras
from tabulate import tabulate

import fs_neurons as fs
from fs_neurons.analysis.evaluation import evaluate
from fs_neurons.data import datasets


def build() -> keras.Model:
    x = inputs = keras.Input((8, 8, 1))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        x = keras.layers.Conv2D(filters, 3, strides=strides, padding="same", activation="swish")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x), name="swish_network")


def main() -> None:
    keras.utils.set_random_seed(0)
    train, test = datasets.load("digits", "train"), datasets.load("digits", "test")
    model = build()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(datasets.standardise(train.images), train.labels, epochs=20, batch_size=32, verbose=0)

    rows = [("the network itself", f"{evaluate(model, test).accuracy:.2%}", "")]
    for quality in ("paper", "accurate", "sparse"):
        snn = fs.convert(model, quality=quality)
        result = evaluate(snn, test)
        spikes = result.spikes_per_image / fs.conversion_report(snn).neurons
        rows.append((f'quality="{quality}"', f"{result.accuracy:.2%}", f"{spikes:.2f}"))
    print(tabulate(rows, (f"{len(test)} test images", "accuracy", "spikes per neuron")))


if __name__ == "__main__":
    main()
