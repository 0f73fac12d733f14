"""Networks of Table 1: neurons as in the paper, weights where they belong."""

import keras
import numpy as np
import pytest
from keras import layers

import fs_neurons as fs
from fs_neurons.models.efficientnet import _official_names, efficientnet, load_checkpoint
from fs_neurons.models.imagenet import NAMES, load_network
from fs_neurons.models.resnet50 import adopt_weights, resnet50

RANDOM = np.random.default_rng(0)


@pytest.mark.long
def test_resnet50s_have_the_neurons_of_table_1():
    paper = fs.conversion_report(fs.convert(resnet50()))
    assert paper.neurons == 9_608_704 and len(paper.rows) == 49
    stock = load_network("resnet50", "random").model
    assert fs.conversion_report(fs.convert(stock)).neurons == 9_081_856
    assert resnet50().count_params() == 25_610_152


@pytest.mark.long
def test_efficientnet_b7_has_the_neurons_of_table_1():
    network = load_network("efficientnet-b7", "random")
    assert network.image_size == 600 and network.model.count_params() == 66_658_687
    assert sum(type(layer) is layers.Conv2D for layer in network.model.layers) == 218
    rows = fs.conversion_report(fs.convert(network.model)).rows
    swish = [row.neurons for row in rows if row.activation == "silu"]
    sigmoid = [row.neurons for row in rows if row.activation == "sigmoid"]
    assert len(swish) == 163 and len(sigmoid) == 55 and len(rows) == 218
    assert sum(swish) == 259_366_992 and sum(sigmoid) == 70_240


# --- ResNet50 -----------------------------------------------------------------------------------


def scramble(model):
    """Weights, biases and statistics that no initialiser gives."""
    model.set_weights(
        [w * 0.5 + RANDOM.uniform(0.1, 0.3, w.shape).astype(w.dtype) for w in model.get_weights()]
    )
    return model


def test_adopted_layers_compute_what_they_did():
    stock = scramble(
        keras.applications.ResNet50(
            weights=None, input_shape=(32, 32, 3), classifier_activation=None
        )
    )
    model = resnet50(image_size=32)
    adopt_weights(model, stock)

    def part(network, first, last):
        inputs = network.inputs[0] if first is None else network.get_layer(first).output
        return keras.Model(inputs, network.get_layer(last).output)

    # Whatever lies between the changed pooling and the changed strides.
    for first, last in (
        (None, "conv1_relu"), ("pool1_pool", "conv2_block3_out"),
        ("conv3_block1_out", "conv3_block4_out"), ("conv5_block1_out", "predictions"),
    ):  # fmt: skip
        old, new = part(stock, first, last), part(model, first, last)
        assert old.input_shape == new.input_shape
        x = RANDOM.uniform(0, 1, (2, *old.input_shape[1:])).astype("float32")
        expected, given = (keras.ops.convert_to_numpy(net(x, training=False)) for net in (old, new))
        np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_adopting_from_another_network_is_refused():
    with pytest.raises(ValueError, match="conv1_conv"):
        adopt_weights(resnet50(image_size=32), keras.Sequential([keras.Input((4,))], name="other"))


# --- official EfficientNet checkpoints ----------------------------------------------------------

ROOT = "efficientnet-b0"
# Kernel, stride, expansion, filters in, filters out, repeats: Tan and Le, Table 1.
STAGES = (
    (3, 1, 1, 32, 16, 1), (3, 2, 6, 16, 24, 2), (5, 2, 6, 24, 40, 2), (3, 2, 6, 40, 80, 3),
    (5, 1, 6, 80, 112, 3), (5, 2, 6, 112, 192, 4), (3, 1, 6, 192, 320, 1),
)  # fmt: skip


class Official:
    """EfficientNet-B0 in plain TensorFlow operations, with the variables of the official program."""

    def __init__(self, norm="tpu_batch_normalization"):
        self.norm, self.values = norm, {}

    def value(self, name, shape, low=-1.0, high=1.0):
        if name not in self.values:
            self.values[name] = RANDOM.uniform(low, high, shape).astype("float32")
        return self.values[name]

    def conv(self, x, name, filters, kernel=1, stride=1, bias=False):
        import tensorflow as tf

        shape = (kernel, kernel, x.shape[-1], filters)
        scale = np.sqrt(3 / np.prod(shape[:3]))
        x = tf.nn.conv2d(x, self.value(f"{name}/kernel", shape, -scale, scale), stride, "SAME")
        return x + self.value(f"{name}/bias", (filters,)) if bias else x

    def depthwise(self, x, name, kernel, stride):
        import tensorflow as tf

        shape = (kernel, kernel, x.shape[-1], 1)
        filters = self.value(f"{name}/depthwise_kernel", shape, -0.5, 0.5)
        return tf.nn.depthwise_conv2d(x, filters, (1, stride, stride, 1), "SAME")

    def batch_norm(self, x, name):
        import tensorflow as tf

        n = (x.shape[-1],)
        mean, variance = (
            self.value(f"{name}/moving_mean", n),
            self.value(f"{name}/moving_variance", n, 0.5, 2),
        )
        beta, gamma = self.value(f"{name}/beta", n), self.value(f"{name}/gamma", n, 0.5, 2)
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3)

    def __call__(self, images):
        import tensorflow as tf

        mean, deviation = (
            np.float32(v) * 255 for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        x = self.conv((images - mean) / deviation, f"{ROOT}/stem/conv2d", 32, 3, 2)
        x = tf.nn.silu(self.batch_norm(x, f"{ROOT}/stem/{self.norm}"))
        number = 0
        for kernel, stride, expansion, _, out, repeats in STAGES:
            for repeat in range(repeats):
                x = self.block(
                    x, f"{ROOT}/blocks_{number}", kernel, 1 if repeat else stride, expansion, out
                )
                number += 1
        x = self.conv(x, f"{ROOT}/head/conv2d", 1280)
        x = tf.reduce_mean(tf.nn.silu(self.batch_norm(x, f"{ROOT}/head/{self.norm}")), axis=(1, 2))
        kernel = self.value(f"{ROOT}/head/dense/kernel", (1280, 1000), -0.05, 0.05)
        return x @ kernel + self.value(f"{ROOT}/head/dense/bias", (1000,))

    def block(self, x, name, kernel, stride, expansion, out):
        import tensorflow as tf

        skip, filters, norms, convs = x, x.shape[-1], 0, 0

        def norm(x):
            nonlocal norms
            norms += 1
            return self.batch_norm(
                x, f"{name}/{self.norm}" + (f"_{norms - 1}" if norms > 1 else "")
            )

        if expansion > 1:
            x = tf.nn.silu(norm(self.conv(x, f"{name}/conv2d", expansion * filters)))
            convs = 1
        x = tf.nn.silu(norm(self.depthwise(x, f"{name}/depthwise_conv2d", kernel, stride)))
        gate = tf.reduce_mean(x, axis=(1, 2), keepdims=True)
        gate = tf.nn.silu(self.conv(gate, f"{name}/se/conv2d", filters // 4, bias=True))
        x *= tf.sigmoid(self.conv(gate, f"{name}/se/conv2d_1", x.shape[-1], bias=True))
        x = norm(self.conv(x, f"{name}/conv2d" + ("_1" if convs else ""), out))
        return x + skip if stride == 1 and filters == out else x

    def save(self, path, averages):
        """Writes a TensorFlow 1 checkpoint; with averages, raw weights are there too, and wrong."""
        import tensorflow as tf

        values = {"global_step": np.int64(7)}
        for name, value in self.values.items():
            if averages:
                values[f"{name}/ExponentialMovingAverage"] = value
            values[name] = value + 1 if averages else value
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            variables = {
                name: tf.compat.v1.get_variable(name, initializer=value, use_resource=True)
                for name, value in values.items()
            }
            session.run(tf.compat.v1.global_variables_initializer())
            tf.compat.v1.train.Saver(variables).save(session, str(path), write_meta_graph=False)


@pytest.fixture(scope="module")
def official():
    network = Official()
    images = RANDOM.uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    return network, images, network(images).numpy()


@pytest.mark.long
@pytest.mark.parametrize("averages", [True, False], ids=["averaged", "raw"])
def test_an_official_checkpoint_gives_the_official_logits(official, averages, tmp_path):
    network, images, expected = official
    network.save(tmp_path / "model.ckpt", averages)
    model = efficientnet("b0", tmp_path if averages else tmp_path / "model.ckpt", image_size=64)
    logits = model.predict(images, verbose=0)
    np.testing.assert_allclose(logits, expected, atol=2e-4 * np.abs(expected).max())
    # The normalisation of the input survives a file.
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), logits)


@pytest.fixture(scope="module")
def shallow():
    """Seven narrow blocks in place of sixteen, and what a checkpoint of them holds."""
    from keras.src.applications.efficientnet import EfficientNet

    model = EfficientNet(0.25, 0.1, 32, weights=None, classes=5)
    values = {
        f"{ROOT}/{name}": RANDOM.uniform(0.5, 1.5, weight.shape).astype("float32")
        for layer, names in _official_names(model, "batch_normalization").items()
        for name, weight in zip(names, layer.weights, strict=True)
    }
    return model, values


def save_checkpoint(values, path):
    import tensorflow as tf

    names = [*values, "global_step"]
    tensors = [*values.values(), np.int64(7)]
    tf.raw_ops.SaveV2(prefix=str(path), tensor_names=names, shape_and_slices=[""] * len(names),
                      tensors=tensors)  # fmt: skip


@pytest.mark.parametrize("averages", [True, False], ids=["averaged", "raw"])
def test_a_checkpoint_fills_all_weights(shallow, averages, tmp_path):
    model, values = shallow
    if averages:
        raw = {name: value + 1 for name, value in values.items()}
        values = {**raw, **{f"{name}/ExponentialMovingAverage": v for name, v in values.items()}}
    save_checkpoint(values, tmp_path / "model.ckpt")
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    load_checkpoint(model, tmp_path)
    kernel = model.get_layer("block3a_expand_conv").kernel
    np.testing.assert_array_equal(kernel, shallow[1][f"{ROOT}/blocks_2/conv2d/kernel"])
    means = model.get_layer("top_bn").moving_mean
    expected = shallow[1][f"{ROOT}/head/batch_normalization/moving_mean"]
    np.testing.assert_array_equal(means, expected)
    trained = [layer for layer in model.layers if not isinstance(layer, layers.Normalization)]
    assert all(np.asarray(weight).min() >= 0.5 for layer in trained for weight in layer.weights)


def test_checkpoints_that_do_not_fit_are_refused(shallow, tmp_path):
    model, values = shallow
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_checkpoint(model, tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="unpack"):
        load_checkpoint(model, tmp_path / "efficientnet-b0.tar.gz")

    def refused(change, message):
        changed = dict(values)
        change(changed)
        save_checkpoint(changed, tmp_path / "bad" / "model.ckpt")
        with pytest.raises(ValueError, match=message):
            load_checkpoint(model, tmp_path / "bad" / "model.ckpt")

    (tmp_path / "bad").mkdir()
    kernel = f"{ROOT}/blocks_3/conv2d/kernel"
    refused(lambda v: v.pop(kernel), f"no variable {kernel}")
    refused(lambda v: v.update({kernel: np.float32([np.nan])}), f"{kernel} has shape")
    refused(lambda v: v.update({kernel: v[kernel] * np.nan}), f"{kernel} has values")
    refused(lambda v: v.clear(), "no EfficientNet")
    refused(
        lambda v: v.update({f"{ROOT}/blocks_7/conv2d/kernel": values[kernel]}), "8 blocks.*has 7"
    )
    (tmp_path / "bad" / "model.ckpt.index").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="can't be read"):
        load_checkpoint(model, tmp_path / "bad")


# --- by name ------------------------------------------------------------------------------------


def small(classes=1000, size=16):
    inputs = keras.Input((size, size, 3))
    x = layers.Conv2D(4, 3, activation="relu")(inputs)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes, name="scores")(x))


def test_saved_models_are_opened_with_what_is_said_about_them(tmp_path):
    path = str(tmp_path / "small.keras")
    small(1001).save(path)
    network = load_network(path, preprocessing="torch")
    assert (network.image_size, network.label_offset, network.name) == (16, 1, "small")
    small(size=None).save(path)
    assert load_network(path, image_size=40, preprocessing="tf").image_size == 40
    model = small()
    keras.Model(model.inputs[0], [model.output, model.layers[1].output]).save(path)
    assert load_network(path, preprocessing="tf", logits="scores").label_offset == 0


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("efficientnet-b9", {}, "neither a file"),
        ("resnet50-v1.5-avgpool", {}, "no published weights"),
        ("resnet50", {"weights": "folder"}, r"\.weights\.h5"),
        ("resnet50", {"weights": "none.weights.h5"}, "no weights"),
        ("resnet50", {"logits": "predictions"}, "saved models"),
        ("resnet50", {"preprocessing": "crop"}, "efficientnet, resnet"),
        ("small.keras", {}, "preprocessing"),
        ("small.keras", {"preprocessing": "tf", "image_size": 20}, "16 x 16, not 20"),
        ("small.keras", {"preprocessing": "tf", "weights": "x.h5"}, "its own weights"),
        ("small.keras", {"preprocessing": "tf", "logits": "dense"}, "no layer 'dense'"),
        ("small.keras", {"preprocessing": "tf", "logits": "conv"}, "1000"),
    ],
)
def test_wrong_arguments_are_refused(name, arguments, message, tmp_path):
    if name == "small.keras":
        model = small()
        model.layers[1].name = "conv"
        name = str(tmp_path / name)
        model.save(name)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_network(name, **arguments)


def test_weights_that_can_not_be_downloaded_are_said_to_be_missing(monkeypatch):
    def offline(**_):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(keras.applications, "ResNet50", offline)
    with pytest.raises(FileNotFoundError, match=r"resnet50: .*\(no route to host\); connect"):
        load_network("resnet50")


def test_weights_of_the_average_pooled_network_are_a_keras_file(tmp_path):
    path = tmp_path / "tuned.weights.h5"
    model = scramble(resnet50(image_size=32))
    model.save_weights(path)
    network = load_network("resnet50-v1.5-avgpool", path, image_size=32)
    for mine, theirs in zip(network.model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert "resnet50-v1.5-avgpool" in NAMES and network.preprocessing == "caffe"
