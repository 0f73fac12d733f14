"""Fits FS-neurons to GELU with 8 time steps, registers them, and converts a GELU network with them.

python examples/fit_gelu.py
"""

import keras
import numpy as np

import fs_neurons as fs
from fs_neurons.analysis.drawing import draw_response
from fs_neurons.neuron import sets as parameters


def main() -> None:
    # Gate inputs close to 0 occur most often: count errors there four times.
    fitted = fs.fit(
        "gelu", K=8, domain=(-6, 6), weight=lambda x: np.where(np.abs(x) < 2, 4.0, 1.0),
        effort=50_000, name="gelu_k8", verbose=False,
    )  # fmt: skip
    for what, value in fitted.errors.items():
        print(f"{what}: {value:.3g}")
    print(f"outside the domain: {fitted.out_of_range}")
    parameters.save(fitted, "gelu_k8.json")  # fs.convert(model, gelu="gelu_k8.json") reads it
    draw_response({"gelu_k8": fitted}, "gelu", (-6, 6), "GELU").savefig("gelu_k8.png")

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((32,)), *(keras.layers.Dense(64, activation="gelu") for _ in range(2))]
    )
    fs.register("gelu", fitted)  # from now on convert() replaces gelu by it
    snn = fs.convert(model)
    print(fs.conversion_report(snn))
    x = np.random.default_rng(0).normal(size=(100, 32)).astype("float32")
    error = np.sqrt(np.mean((keras.ops.convert_to_numpy(snn(x) - model(x))) ** 2))
    print(f"root mean squared error of the outputs: {error:.3g}")


if __name__ == "__main__":
    main()
