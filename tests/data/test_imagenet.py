"""ImageNet sources and preprocessing, against PIL and plain numpy."""

import io
import itertools

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from fs_neurons.data import preprocessing
from fs_neurons.data.datasets import DatasetUnavailable
from fs_neurons.data.imagenet import decode, open_images, stream, wnids

RANDOM = np.random.default_rng(0)


def encoded(array, kind="JPEG", mode=None, **options):
    file = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def smooth(height, width):
    """A photograph's stand-in: JPEG keeps it nearly unchanged."""
    y, x = np.mgrid[:height, :width]
    channels = [127 + 120 * np.sin(x / 9 + y / 13 + phase) for phase in (0, 1, 2)]
    return np.stack(channels, axis=-1).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Two classes and what users keep beside them."""
    picture = smooth(40, 50)
    good, zoo = tmp_path / "val" / wnids()[7], tmp_path / "val" / wnids()[999]
    for directory in (good, zoo, tmp_path / "val" / "n00000000", tmp_path / "val" / ".cache"):
        directory.mkdir(parents=True)
    (good / "rgb.JPEG").write_bytes(encoded(picture))
    (good / "grey.JPEG").write_bytes(encoded(picture, mode="L"))
    (good / "cmyk.JPEG").write_bytes(encoded(picture, mode="CMYK"))
    (good / "png.JPEG").write_bytes(encoded(picture, "PNG"))
    (good / "rgba.JPEG").write_bytes(encoded(picture, "PNG", mode="RGBA"))
    (good / "truncated.JPEG").write_bytes(encoded(picture)[:700])
    (good / "empty.JPEG").write_bytes(b"")
    (good / "text.JPEG").write_bytes(b"no image at all")
    (good / ".DS_Store").write_bytes(b"x")
    (zoo / "gif.JPEG").write_bytes(encoded(picture[..., 0], "GIF"))
    (tmp_path / "val" / "n00000000" / "x.JPEG").write_bytes(encoded(picture))
    return tmp_path


def test_wnids_are_the_thousand_in_order():
    assert len(wnids()) == 1000 and list(wnids()) == sorted(set(wnids()))
    # Goldfinch, tench, toilet tissue: the places that every published network uses.
    assert [wnids().index(w) for w in ("n01440764", "n01531178", "n15075141")] == [0, 11, 999]


def test_every_kind_of_image_is_decoded_or_named(folder):
    source = open_images(str(folder))
    assert source.count == 9 and len(source.notes) == 1 and "n00000000" in source.notes[0]
    samples = {s.name.split("/")[1]: s for s in stream(source, prepare=lambda image: image)}
    bad = {name for name, sample in samples.items() if sample.image is None}
    assert bad == {"truncated.JPEG", "empty.JPEG", "text.JPEG"}
    assert all(samples[name].problem.startswith(f"{wnids()[7]}/{name}: ") for name in bad)
    for name in samples.keys() - bad:
        assert samples[name].image.shape == (40, 50, 3) and samples[name].image.dtype == np.uint8
        assert samples[name].label == (999 if name == "gif.JPEG" else 7)
    picture = smooth(40, 50).astype(int)
    np.testing.assert_array_equal(samples["png.JPEG"].image, picture)
    np.testing.assert_array_equal(samples["rgba.JPEG"].image, picture)
    for name in ("rgb.JPEG", "cmyk.JPEG"):
        assert np.abs(samples[name].image - picture).mean() < 6
    grey = samples["grey.JPEG"].image
    assert (grey[..., 0] == grey[..., 2]).all()


def test_jpegs_are_decoded_as_in_the_official_programs():
    import tensorflow as tf

    data = encoded(smooth(33, 47), quality=90)
    pixels = np.asarray(decode(data))
    np.testing.assert_array_equal(pixels, tf.io.decode_jpeg(data, channels=3))
    # Its discrete cosine transform is the fast one, PIL's the accurate one.
    difference = pixels.astype(int) - np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(difference).max() <= 4


def test_order_is_fixed_and_a_stream_continues_anywhere(folder):
    source = open_images(str(folder / "val"))
    names = [s.name for s in stream(source, prepare=lambda image: image)]
    assert [s.name for s in stream(open_images(str(folder)), lambda image: image)] == names
    parts = [stream(source, lambda i: i, start=a, stop=b) for a, b in ((0, 4), (4, 5), (5, None))]
    assert [s.name for s in itertools.chain(*parts)] == names
    assert [s.name for s in itertools.islice(stream(source, lambda image: image), 2)] == names[:2]


def test_missing_or_empty_sources_are_refused(folder, tmp_path, monkeypatch):
    with pytest.raises(DatasetUnavailable, match="no folder"):
        open_images(str(tmp_path / "nowhere"))
    with pytest.raises(DatasetUnavailable, match="n01440764"):
        open_images(str(folder / "val" / "n00000000"))
    with pytest.raises(ValueError, match="tfds:imagenet_v2"):
        open_images("tfds:mnist")
    with pytest.raises(ValueError, match="tfds:imagenet2012"):
        open_images("tfds:imagenet_v2", split="train")
    with pytest.raises(DatasetUnavailable, match="by hand"):
        open_images("tfds:imagenet2012", data_dir=tmp_path)

    def offline(host):
        raise OSError(f"{host} does not answer")

    monkeypatch.setattr("fs_neurons.data.imagenet.require_host", offline)
    with pytest.raises(DatasetUnavailable, match="does not answer"):
        open_images("tfds:imagenet_v2", data_dir=tmp_path)


def test_real_photographs_are_all_read():
    folder = ROOT.parent / "shared" / "imagenet_sample"
    if not folder.is_dir():
        pytest.skip("needs ImageNet photographs in ../shared/imagenet_sample")
    source = open_images(str(folder))
    samples = list(stream(source, lambda image: preprocessing.efficientnet(image, 32)))
    assert len(samples) == source.count == 100
    assert all(sample.image is not None for sample in samples)
    assert len({sample.label for sample in samples}) == len(list((folder / "val").iterdir()))


# --- preprocessing ------------------------------------------------------------------------------


def cubic(t):
    """Keys' kernel with a = -0.75."""
    a, t = -0.75, np.abs(t)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * (t**3 - 5 * t**2 + 8 * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def linear(t):
    return np.maximum(0, 1 - np.abs(t))


def resized(image, height, width, kernel, reach, steps=None):
    """Row i of the result is at i * old / new of the source; pixels beyond the edge repeat it."""

    def matrix(old, new):
        m = np.zeros((new, old))
        for i in range(new):
            at = i * old / new
            fraction = at - np.floor(at)
            if steps:  # TensorFlow looks its cubic kernel up in a table
                fraction = np.rint(fraction * steps) / steps
            for k in range(1 - reach, reach + 1):
                source = int(np.clip(np.floor(at) + k, 0, old - 1))
                m[i, source] += kernel(fraction - k)
        return m

    rows, columns = matrix(image.shape[0], height), matrix(image.shape[1], width)
    tall = np.tensordot(rows, image.astype(float), 1)
    return np.moveaxis(np.tensordot(tall, columns.T, (1, 0)), 1, 2)


@pytest.mark.parametrize(("height", "width"), [(61, 80), (90, 57), (40, 40), (150, 300)])
def test_efficientnet_pixels(height, width):
    image, size = RANDOM.integers(0, 256, (height, width, 3), np.uint8), 48
    side = int(min(height, width) * size / (size + 32))
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    square = image[top : top + side, left : left + side]
    expected = resized(square, size, size, cubic, 2, steps=1024)
    actual = np.asarray(preprocessing.efficientnet(image, size))
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=2e-3)


@pytest.mark.parametrize(("height", "width"), [(500, 375), (256, 300), (60, 90)])
def test_resnet_pixels(height, width):
    image, size = RANDOM.integers(0, 256, (height, width, 3), np.uint8), 224
    ratio = 256 / min(height, width)
    tall, wide = (256 if s == min(height, width) else int(s * ratio) for s in (height, width))
    top, left = (tall - size) // 2, (wide - size) // 2
    crop = resized(image, tall, wide, linear, 1)[top : top + size, left : left + size]
    expected = crop - np.array([123.68, 116.78, 103.94])
    np.testing.assert_allclose(preprocessing.resnet(image, size), expected, atol=2e-2)
    blue_first = crop[..., ::-1] - np.array([103.939, 116.779, 123.68])
    np.testing.assert_allclose(preprocessing.caffe(image, size), blue_first, atol=2e-2)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(
        preprocessing.standardised(image, size), (crop / 255 - mean) / deviation, atol=5e-4
    )
    np.testing.assert_allclose(preprocessing.symmetric(image, size), crop / 127.5 - 1, atol=2e-4)


@pytest.mark.parametrize("name", preprocessing.PREPROCESSINGS)
@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 300, 3), (1000, 3, 3)])
def test_extreme_shapes_give_full_images(name, shape):
    image = RANDOM.integers(0, 256, shape, np.uint8)
    prepared = np.asarray(preprocessing.PREPROCESSINGS[name](image, 64))
    assert prepared.shape == (64, 64, 3) and np.isfinite(prepared).all()
