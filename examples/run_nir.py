"""Runs a network that `fs.export(snn, "net.nir", format="nir", images=x)` wrote, spike by spike.

    python examples/run_nir.py net.nir                       # the images in the file
    python examples/run_nir.py net.nir --images=images.npy   # others, (images, channels, height, width)

Needs numpy and h5py, and neither Keras nor fs_neurons. Time runs in windows of K steps: an image arrives in window 0; the
neurons of a Threshold node start from what has arrived and fire in their own window, z(t) = v >= T(t), v = v - h(t) z(t).
Each spike puts d(t) on the edges behind its neuron, and each node that it meets hands on what it makes of it at once:
weights of a convolution or a dense layer, a scale, a window that is summed up, a delay. Biases arrive once. Products are outside of
the graph: their Input node collects one factor and hands on d(t) times that for each spike of the carrier, or a sum without its
lowest bits when its window ends. Where weights and parameters are integers, so is everything that is computed.

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

    def __init__(self, name, group):
        self.name = name
        self.values = {k: x[()] for k, x in group.items() if isinstance(x, h5py.Dataset)}
        self.type = self.values.pop("type").decode()
        self.metadata = {k: x[()] for k, x in group.get("metadata", {}).items()}
        self.targets, self.shape = [], None
        self.carrier, other = (self.metadata.get(k, b"").decode() for k in ("carrier", "other"))
        self.sources = [source for source in (self.carrier, other) if source]
        if self.sources or self.type == "Threshold":
            self.type = "Outside" if self.sources else self.type
            self.shape = self.values["shape"] if self.sources else self.values["threshold"].shape
            self.window = int(self.metadata["window"])
            self.due = self.window - ("shift" not in self.metadata)  # when all has arrived
            self.rows = [self.metadata[k].astype(np.float32) for k in "Thd" if k in self.metadata]

    def pair(self, name):
        return tuple(int(x) for x in np.broadcast_to(self.values[name], 2))


class Network:
    """The nodes of a file, and the edges between them."""

    def __init__(self, path):
        try:
            with h5py.File(path, "r") as file:
                graph = file["node"]
                self.nodes = {name: Node(name, group) for name, group in graph["nodes"].items()}
                edges = [tuple(x.decode() for x in edge) for edge in graph["edges"][()]]
                self.metadata = {key: item[()] for key, item in graph["metadata"].items()}
            beside = [(source, n) for n, x in self.nodes.items() for source in x.sources]
            for source, target in dict.fromkeys(edges + beside):
                self.nodes[source].targets.append(target)
            if int(self.metadata["fs_neurons"]) != FORMAT:
                raise UnknownFileError(f"this program reads format {FORMAT}")
            self.K, self.windows = int(self.metadata["K"]), int(self.metadata["windows"])
            self.sites = {n: x for n, x in self.nodes.items() if x.type == "Threshold"}
            shifts = [x for x in self.nodes.values() if "shift" in x.metadata]
            self.shifts = sorted(shifts, key=lambda x: int(x.metadata["place"]))
            (self.input,) = (n for n, x in self.nodes.items() if x.type == "Input")
            left = dict(beside)  # Output nodes by which factors leave
            (end,) = (x for n, x in self.nodes.items() if x.type == "Output" and n not in left)
            self.output, end.shape, end.due = end.name, end.values["shape"], self.windows - 1
        except (OSError, KeyError, ValueError, AttributeError, TypeError) as error:
            raise UnknownFileError(f"no network of fs_neurons ({error})") from error
        unknown = {x.type for x in self.nodes.values()} - {*PASS, "Input", "Outside", "Threshold"}
        if unknown:
            raise UnknownFileError(f"nodes that this program doesn't know: {', '.join(unknown)}")
        self.dtype = np.int64 if self.is_integer() else np.float64
        self.at_rest = self.biases()

    def is_integer(self):
        """Whether all weights, biases and values of spikes are integers; T and h of coded inputs need not be."""
        coded, numbers = self.nodes[self.input].targets, []
        for name, x in self.nodes.items():
            if self.output not in x.targets or "scale" not in x.values:
                numbers += [x.values[k] for k in ("weight", "bias", "scale") if k in x.values]
            if x.type == "Threshold":
                numbers += [x.rows[2]] if name in coded else x.rows
        return all(np.array_equal(x, np.rint(x)) for x in numbers)

    def biases(self):
        """What arrives at each site, product, shift and output without any spike."""
        arrived = {n: np.zeros(x.shape) for n, x in self.nodes.items() if x.shape is not None}
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
                then += int(target.values["delay"].flat[0]) // self.K
            if target.carrier == node.name:
                self.asked.append((target, values))
            elif name in arrived:
                wrong = window is not None and window != target.due
                if wrong and (target.type != "Outside" or window > target.due):
                    raise UnknownFileError(f"{name!r}: window {window} in place of {target.due}")
                arrived[name] += values
            else:
                self.send(target, PASS[target.type](target, values), arrived, then)

    def run(self, image):
        """Class scores of an image, and the spikes of each site: (step, neuron) of all of them."""
        arrived = {name: x.astype(self.dtype_of(name)) for name, x in self.at_rest.items()}
        spikes, self.asked = {}, []
        self.send(self.nodes[self.input], image.astype(np.float32), arrived, 0)
        for window in range(1, self.windows + 1):
            firing = [name for name, site in self.sites.items() if site.window == window]
            potentials = {name: arrived[name].astype(np.float32) for name in firing}
            for t in range(self.K):
                for name in (n for n in firing if t < len(self.sites[n].rows[0])):
                    site, v = self.sites[name], potentials[name]
                    T, h, d = (x[t].reshape(-1, *(1,) * (v.ndim - 1)) for x in site.rows)
                    z = v >= T
                    v -= h * z
                    index = np.flatnonzero(z)
                    spikes.setdefault(name, []).extend((t, i) for i in index)
                    if len(index):
                        self.send(site, (z * d).astype(self.dtype), arrived, window)
                self.hand_on(arrived, window)
            for node in (x for x in self.shifts if x.window == window):
                unit = 2 ** node.metadata["shift"].reshape(-1, *[1] * (len(node.shape) - 1))
                self.send(node, (arrived[node.name] + unit // 2) // unit, arrived, window)
        return arrived[self.output], spikes

    def hand_on(self, arrived, window):
        """Multiples that spikes have asked products for, once what these hold is complete."""
        asked, self.asked = self.asked, [x for x in self.asked if x[0].window > window]
        for node, values in (x for x in asked if x[0].window <= window):
            self.send(node, values * arrived[node.name], arrived, window)

    def dtype_of(self, name):
        """Of what arrives: the coded inputs take numbers, and outputs may have a scale."""
        if name in self.nodes[self.input].targets:
            return np.float32
        return np.float64 if name == self.output else self.dtype


def conv_size(node):
    """Height and width of the output of a convolution."""
    names = ("input_shape", "padding", "dilation", "stride")
    n, p, d, s = (np.array(node.pair(name)) for name in names)
    reach = d * (np.array(node.values["weight"].shape[2:]) - 1) + 1
    return tuple(((n + 2 * p - reach) // s + 1).tolist())


def convolve(node, values):
    weight = as_integers(node.values["weight"], values)
    padding, stride, dilation = (node.pair(name) for name in ("padding", "stride", "dilation"))
    result = np.zeros((len(weight), *conv_size(node)), weight.dtype)
    channel, y, x = np.nonzero(values)
    for i, j in np.ndindex(*weight.shape[2:]):
        row, column = y + padding[0] - i * dilation[0], x + padding[1] - j * dilation[1]
        meets = (row % stride[0] == 0) & (column % stride[1] == 0) & (row >= 0) & (column >= 0)
        row, column = row // stride[0], column // stride[1]
        meets &= (row < result.shape[1]) & (column < result.shape[2])
        currents = weight[:, channel[meets], i, j] * values[channel, y, x][meets]
        np.add.at(result, (slice(None), row[meets], column[meets]), currents)
    return result


def multiply(node, values):
    (index,) = np.nonzero(values)
    return as_integers(node.values["weight"], values)[:, index] @ values[index]


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


# What a node makes of what reaches it, whose nonzero entries are events.
PASS = {
    "Conv2d": convolve,
    "Affine": multiply,
    "SumPool2d": sum_windows,
    "Scale": scale,
    "Flatten": lambda _, values: values.reshape(-1),
    "Delay": lambda _, values: values,
    "Output": lambda _, values: values,
}


def compare(network, image, number, scores, spikes):
    """How many spikes of an image are other than the file says, and whether its class scores are the same."""
    other = 0
    for name, site in network.sites.items():
        events = {(t, i) for n, t, i in site.metadata["spikes"].tolist() if n == number}
        other += len(events ^ set(spikes.get(name, [])))
    expected = network.nodes[network.output].metadata["scores"][number]
    return other, np.allclose(scores, expected, rtol=1e-4, atol=1e-4)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--images", help="numpy file, (images, channels, height, width)")
    options = parser.parse_args(arguments)
    try:
        network, failed = Network(options.file), 0
        images = np.load(options.images) if options.images else network.metadata.get("images")
        if images is None:
            raise UnknownFileError("no images in the file: give --images")
        print(f"{len(network.sites)} sites, {network.dtype.__name__}, {network.windows} windows")
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
