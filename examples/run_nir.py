"""Runs a network that `fs.export(snn, "net.nir", format="nir", images=x)` wrote, spike by spike.

    python examples/run_nir.py net.nir                       # the images in the file
    python examples/run_nir.py net.nir --images=images.npy   # others, (images, channels, height, width)

Needs numpy and h5py, and neither Keras nor fs_neurons. Time runs in windows of K steps: an image arrives in window 0; the
neurons of a Threshold node start from what has arrived and fire in their own window, z(t) = v >= T(t), v = v - h(t) z(t).
Each spike puts d(t) on the edges behind its neuron, and each node that it meets hands on what it makes of it at once:
weights of a convolution or a dense layer, a scale, a window that is summed up, a delay. Biases arrive once. Where weights
and parameters are integers, so is everything that is computed.

If the file holds spikes and class scores for its images, they are compared with what came out here.
"""

import argparse
import sys

import h5py
import numpy as np

FORMAT = 1


class UnknownFileError(ValueError):
    """The file is none that this program can run; the message says why."""


class Node:
    """One node of the file: its numbers as arrays by name, its metadata likewise."""

    def __init__(self, group):
        self.values = {k: x[()] for k, x in group.items() if isinstance(x, h5py.Dataset)}
        self.type = self.values.pop("type").decode()
        self.metadata = {k: x[()] for k, x in group.get("metadata", {}).items()}
        self.targets = []

    def pair(self, name):
        """Height and width."""
        return tuple(int(x) for x in np.broadcast_to(self.values[name], 2))


class Network:
    """The nodes of a file, and the edges between them."""

    def __init__(self, path):
        try:
            with h5py.File(path, "r") as file:
                graph = file["node"]
                self.nodes = {name: Node(group) for name, group in graph["nodes"].items()}
                for source, target in graph["edges"][()]:
                    self.nodes[source.decode()].targets.append(target.decode())
                self.metadata = {key: item[()] for key, item in graph["metadata"].items()}
            if int(self.metadata["fs_neurons"]) != FORMAT:
                raise UnknownFileError(f"this program reads format {FORMAT}")
            self.K, self.windows = int(self.metadata["K"]), int(self.metadata["windows"])
            self.sites = {n: x for n, x in self.nodes.items() if x.type == "Threshold"}
            for site in self.sites.values():
                site.shape = site.values["threshold"].shape
                site.window = int(site.metadata["window"])
                site.rows = [site.metadata[name].astype(np.float32) for name in ("T", "h", "d")]
            (self.output,) = (n for n, x in self.nodes.items() if x.type == "Output")
            (self.input,) = (n for n, x in self.nodes.items() if x.type == "Input")
            self.output_shape = tuple(self.nodes[self.output].values["shape"])
        except (OSError, KeyError, ValueError, AttributeError, TypeError) as error:
            raise UnknownFileError(f"no network of fs_neurons ({error})") from error
        unknown = {x.type for x in self.nodes.values()} - {*PASS, "Input", "Output", "Threshold"}
        if unknown:
            raise UnknownFileError(f"nodes that this program doesn't know: {', '.join(unknown)}")
        self.dtype = np.int64 if self.is_integer() else np.float64
        self.at_rest = self.biases()

    def is_integer(self):
        """Whether all weights, biases and values of spikes are integers; T and h of coded inputs need not be."""
        coded = set(self.nodes[self.input].targets)
        inside = [
            x
            for x in self.nodes.values()
            if self.output not in x.targets or "scale" not in x.values
        ]
        numbers = [
            x.values[k] for x in inside for k in ("weight", "bias", "scale") if k in x.values
        ]
        for name, site in self.sites.items():
            numbers += [site.rows[2]] if name in coded else site.rows
        return all(np.array_equal(x, np.rint(x)) for x in numbers)

    def biases(self):
        """What arrives at each site and output without any spike."""
        arrived = {self.output: np.zeros(self.output_shape)}
        arrived.update((name, np.zeros(site.shape)) for name, site in self.sites.items())
        for name, node in self.nodes.items():
            if "bias" in node.values:
                bias = node.values["bias"].astype(float)
                if node.type == "Conv2d":
                    bias = np.broadcast_to(bias[:, None, None], (len(bias), *conv_size(node)))
                self.send(node, bias, arrived, None)
            if name in arrived:
                arrived[name] += node.metadata.get("constant", 0.0)
        return arrived

    def send(self, node, values, arrived, window):
        """Hands what comes out of a node to all nodes behind it."""
        for name in node.targets:
            target, then = self.nodes[name], window
            if target.type == "Delay" and window is not None:
                then = window + int(target.values["delay"].flat[0]) // self.K
            if name in arrived:
                due = target.window - 1 if target.type == "Threshold" else self.windows - 1
                if window not in (None, due):
                    raise UnknownFileError(f"{name!r} is reached in window {window}, not {due}")
                arrived[name] += values
            else:
                self.send(target, PASS[target.type](target, values), arrived, then)

    def run(self, image):
        """Class scores of an image, and the spikes of each site: (step, neuron) of all of them."""
        arrived = {name: x.astype(self.dtype_of(name)) for name, x in self.at_rest.items()}
        spikes = {}
        self.send(self.nodes[self.input], image.astype(np.float32), arrived, 0)
        for window in range(1, self.windows + 1):
            firing = [name for name, site in self.sites.items() if site.window == window]
            potentials = {name: arrived[name].astype(np.float32) for name in firing}
            for t in range(self.K):
                for name in firing:
                    site, v = self.sites[name], potentials[name]
                    if t >= len(site.rows[0]):
                        continue
                    T, h, d = (x[t].reshape(-1, *(1,) * (v.ndim - 1)) for x in site.rows)
                    z = v >= T
                    v -= h * z
                    index = np.flatnonzero(z)
                    spikes.setdefault(name, []).extend((t, i) for i in index)
                    if len(index):
                        self.send(site, (z * d).astype(self.dtype), arrived, window)
        return arrived[self.output], spikes

    def dtype_of(self, name):
        """Of what arrives: the coded inputs take numbers, and outputs may have a scale."""
        if name in self.nodes[self.input].targets:
            return np.float32
        return np.float64 if name == self.output else self.dtype


# --- what a node makes of what reaches it: nonzero entries are events ------------------------------


def conv_size(node):
    """Height and width of the output of a convolution."""
    sizes = node.values["input_shape"], node.pair("padding"), node.pair("dilation")
    kernel, stride = node.values["weight"].shape[2:], node.pair("stride")
    return tuple(
        int((n + 2 * p - d * (k - 1) - 1) // s + 1)
        for n, p, d, k, s in zip(*sizes, kernel, stride, strict=True)
    )


def convolve(node, values):
    weight = as_integers(node.values["weight"], values)
    padding, stride, dilation = (node.pair(name) for name in ("padding", "stride", "dilation"))
    result = np.zeros((len(weight), *conv_size(node)), weight.dtype)
    channel, y, x = np.nonzero(values)
    value = values[channel, y, x]
    for i, j in np.ndindex(*weight.shape[2:]):
        row, column = y + padding[0] - i * dilation[0], x + padding[1] - j * dilation[1]
        meets = (row % stride[0] == 0) & (column % stride[1] == 0) & (row >= 0) & (column >= 0)
        row, column = row // stride[0], column // stride[1]
        meets &= (row < result.shape[1]) & (column < result.shape[2])
        currents = weight[:, channel[meets], i, j] * value[meets]
        np.add.at(result, (slice(None), row[meets], column[meets]), currents)
    return result


def multiply(node, values):
    weight = as_integers(node.values["weight"], values)
    (index,) = np.nonzero(values)
    return weight[:, index] @ values[index]


def sum_windows(node, values):
    (a, b), stride = node.pair("kernel_size"), node.pair("stride")
    windows = np.lib.stride_tricks.sliding_window_view(values, (a, b), axis=(1, 2))
    return windows[:, :: stride[0], :: stride[1]].sum(axis=(3, 4))


def as_integers(weight, values):
    return weight.astype(values.dtype if values.dtype == np.int64 else np.float64)


def scale(node, values):
    factor = node.values["scale"]
    whole = np.array_equal(factor, np.rint(factor)) and values.dtype == np.int64
    return values * factor.astype(np.int64 if whole else np.float64)


PASS = {
    "Conv2d": convolve,
    "Affine": multiply,
    "SumPool2d": sum_windows,
    "Scale": scale,
    "Flatten": lambda node, values: values.reshape(-1),
    "Delay": lambda node, values: values,
}


def compare(network, image, number, scores, spikes):
    """How many spikes of an image are other than the file says, and whether its class scores are the same."""
    other = 0
    for name, site in network.sites.items():
        events = site.metadata["spikes"]
        expected = {tuple(x) for x in events[events[:, 0] == number, 1:].tolist()}
        other += len(expected ^ set(spikes.get(name, [])))
    same = np.allclose(
        scores, network.nodes[network.output].metadata["scores"][number], rtol=1e-4, atol=1e-4
    )
    return other, same


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--images", help="numpy file, (images, channels, height, width)")
    options = parser.parse_args(arguments)
    try:
        network = Network(options.file)
        images = np.load(options.images) if options.images else network.metadata.get("images")
        if images is None:
            raise UnknownFileError("no images in the file: give --images")
        print(
            f"{len(network.sites)} sites, {network.dtype.__name__}, {network.windows} windows of {network.K} steps"
        )
        failed = 0
        for number, image in enumerate(images):
            scores, spikes = network.run(image)
            line = f"image {number}: class {scores.argmax()}, {sum(map(len, spikes.values())):,} spikes"
            if not options.images:
                other, same = compare(network, image, number, scores, spikes)
                failed += other > 0 or not same
                line += f", {other} of them other than in the file"
            print(line)
    except (OSError, KeyError, ValueError) as error:
        print(f"{options.file}: can't be run: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
