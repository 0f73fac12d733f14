import matplotlib
import numpy as np
import pytest
from conftest import plain_loop

import fs_neurons as fs
from fs_neurons.analysis.drawing import draw_neuron, draw_response
from fs_neurons.neuron import sets as parameters


@pytest.mark.parametrize("name", ["swish_k16_paper", "sigmoid_k8"])
@pytest.mark.parametrize("x", [-3.0, 0.0, 1.3, 40.0])
def test_the_drawn_neuron_is_the_neuron(name, x):
    p = parameters.load(name)
    y, train, count = plain_loop(np.float32([x]), p)
    top, middle, bottom = draw_neuron(p, x).axes
    potential = top.patches[0].get_data().values
    assert np.array_equal(potential >= p.T, train[0] > 0)
    assert len(top.lines[0].get_xdata()) == count[0] == len(middle.collections[0].get_segments())
    assert bottom.patches[0].get_data().values[-1] == pytest.approx(y[0], abs=1e-5)
    assert f"with {count[0]} spike" in bottom.get_title(loc="left")


def test_the_function_is_drawn_beside():
    p = fs.relu_parameters(6, 10)
    labels = [line.get_label() for line in draw_neuron(p, 7.3, "relu").axes[2].lines]
    assert labels == ["f(x) = 7.3"]
    x = np.linspace(-2, 12, 20_001, dtype=np.float32)
    own = np.mean((np.maximum(x, 0) - plain_loop(x, p)[0])[x < 10] ** 2)
    left, error, right = draw_response({"bits": p}, "relu", (-2, 12), "ReLU").axes
    assert left.get_title(loc="left").endswith(f"mean squared error {own:.3g} for x < 10")
    assert abs(error.get_ylim()[1]) == pytest.approx(1.25 * 10 / 64, rel=0.02)  # the step
    assert right.lines[0].get_label() == "T(t) = h(t) = d(t)"


def test_h_is_drawn_apart_from_T_and_d():
    p = parameters.load("swish_k16_paper")
    *_, above, below = draw_response({"published": p}, "silu", (-8, 12)).axes
    drawn = {line.get_label(): line.get_ydata() for axes in (above, below) for line in axes.lines}
    assert [line.get_label() for line in above.lines[:2]] == ["T(t)", "d(t)"]
    for key in "Thd":
        np.testing.assert_array_equal(drawn[f"{key}(t)"], getattr(p, key))


def test_drawing_leaves_the_style_of_others_alone():
    before = dict(matplotlib.rcParams)
    draw_response({"a": fs.relu_parameters(4, 1)}, None, (-1, 1))
    assert dict(matplotlib.rcParams) == before


def test_what_can_not_be_drawn_is_refused():
    p = fs.relu_parameters()
    with pytest.raises(ValueError, match="finite"):
        draw_neuron(p, float("nan"))
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_response({}, None, (0, 1))
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_response({"a": p}, None, (1, 0))
    with pytest.raises(ValueError, match="no_such_activation"):
        draw_neuron(p, 1.0, "no_such_activation")
