"""Which parameter set each activation of a model gets, and what to say where there is none."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from fs_neurons import neuron
from fs_neurons.network.activations import base_name, is_element_wise, keras_activations
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.sites import Site
from fs_neurons.neuron import FSParameters, relu_parameters
from fs_neurons.neuron.sets import (
    RELU6_MAX,
    as_parameters,
    canonical_name,
    for_activation,
    is_registered,
    registered,
)

FIT_STEPS, FIT_DOMAIN, FIT_EFFORT = 12, (-8.0, 12.0), 200_000
# A set given for an activation is refused where it fits another function this many times as well, and well:
# with at most that part of its root mean square. Of the error of a coarse set that rounds down, a shift takes
# away half, so that a function below may be fitted twice as well.
_CLEARLY, _WELL = 2.2, 0.1
# A set given for "leaky_relu" is taken for one with another slope where it is about as good for that.
_AS_GOOD = 1.2
_RELU6 = relu_parameters(alpha=RELU6_MAX)

Function = Callable[[Any], Any]


class Sets:
    """The parameter sets of a conversion: those given by the caller, then those registered.

    Args:
        given: FSParameters, name or path of a set by the name of an activation.
        quality: as for `convert`.
        sites: of the model.

    Raises:
        TypeError: a name is no activation.
        ValueError: a set plainly is for another function; or as `parameters.load`.
    """

    def __init__(
        self, given: Mapping[str, FSParameters | str], quality: str, sites: Sequence[Site]
    ):
        self.quality = quality
        self.given = {canonical_name(name): as_parameters(x) for name, x in given.items()}
        self.used: set[str] = set()
        known = {*registered(), *keras_activations(), *(base_name(s.activation) for s in sites)}
        for name, parameters in self.given.items():
            if base_name(name) not in known:
                raise TypeError(
                    f"convert() got {name}=..., which is neither an argument nor an activation;"
                    f" registered activations: {', '.join(registered())}"
                )
            _check_is_for(name, parameters, sites)

    def of(self, site: Site) -> FSParameters | None:
        """The set for a site; None where there is none."""
        if site.max_value is not None:
            return self._saturating(site, site.max_value)
        base = base_name(site.activation)
        for name in (site.activation, base):
            parameters = self.given.get(name)
            if parameters is not None and (
                name == site.activation or _is_as_good(parameters, site.function, base)
            ):
                self.used.add(name)
                return parameters
        return for_activation(site.activation, self.quality)

    def is_given(self, site: Site) -> bool:
        """Whether the caller chose the set of a site, as an argument or by `register`."""
        names = {site.activation, base_name(site.activation)}
        if site.max_value == RELU6_MAX:
            names.add("relu6")
        return any(name in self.given or is_registered(name) for name in names)

    def _saturating(self, site: Site, top: float) -> FSParameters:
        """The set for a ReLU with a largest value: its own, or FS-ReLU with alpha there."""
        names = [site.activation, *(["relu6"] if top == RELU6_MAX else [])]
        for name in names:
            if name in self.given:
                self.used.add(name)
                return self.given[name]
        registered_sets = [for_activation(name) for name in names]
        own = [x for x in registered_sets if x is not None and x != _RELU6]
        if own and "relu" not in self.given:
            return own[0]
        relu = self.given.get("relu") or for_activation("relu", self.quality) or _RELU6
        if "relu" in self.given:
            self.used.add("relu")
        if relu.alpha is None:
            option = "relu6=..." if top == RELU6_MAX else f'register("{site.activation}", ...)'
            warnings.warn(
                f"{site.layer!r} saturates at {top:g}, so it can't have {relu.name!r}, the set for relu,"
                f" which is not binary coded: it gets relu_parameters({relu.K}, {top:g}); for another"
                f" set: {option}",
                stacklevel=4,
            )
        try:
            return relu_parameters(relu.K, top, relu.rounding or "down")
        except ValueError as error:
            raise ConversionError(f"{site.layer!r} ({site.activation}): {error}") from error

    def warn_of_unused(
        self, model: str, converted: Collection[Site], heads: Sequence[Site]
    ) -> None:
        """Says which of the given sets belong to no site."""
        for name in sorted(self.given.keys() - self.used):
            outputs = [s.layer for s in heads if base_name(s.activation) == base_name(name)]
            found = ", ".join(sorted({s.activation for s in converted}))
            text = f"{name}=... was given, but model {model!r} has no such activation to convert"
            hint = f"; {outputs[0]!r} is its output: convert_outputs=True" if outputs else ""
            warnings.warn(f"{text} (it has {found}){hint}", stacklevel=4)


def fitted(sites: Sequence[Site]) -> dict[Site, FSParameters]:
    """Sets of `FIT_STEPS` steps, fitted to the element-wise functions of sites; says how good they are."""
    sets: dict[Any, FSParameters] = {}
    result = {}
    for site in sites:
        if not (site.convertible and is_element_wise(site.function)):
            continue
        # All sites of one of Keras' functions share their set.
        known = base_name(site.activation) in keras_activations()
        key = site.activation if known else site.function
        if key not in sets:
            sets[key] = _fitted(site)
        result[site] = sets[key]
    return result


def _fitted(site: Site) -> FSParameters:
    from fs_neurons.fitting import fit  # which brings in numba

    name = f"{site.activation}_k{FIT_STEPS}"
    try:
        parameters = fit(
            lambda x: _values(site.function, x), FIT_STEPS, FIT_DOMAIN, effort=FIT_EFFORT,
            name=name, verbose=False,
        )  # fmt: skip
    except ValueError as error:
        raise ConversionError(
            f"{site.layer!r} ({site.activation}) can't be fitted: {error}"
        ) from error
    rms, size = _errors(parameters, site.function)
    low, high = FIT_DOMAIN
    warnings.warn(
        f"fitted a set of {FIT_STEPS} steps to {site.activation} (first at {site.layer!r}): root mean square"
        f" error {rms:.2g} for inputs in [{low:g}, {high:g}], where the function's own is {size:.2g}",
        stacklevel=5,
    )
    return parameters


def refusal(refused: Sequence[Site]) -> str:
    """What to do about activations that can't be converted."""
    text = f"{len(refused)} activations can't be converted: {listing(refused)}."
    without = sorted({site.activation for site in refused if site.convertible})
    if without:
        example = next((name for name in without if name.isidentifier()), None)
        text += f" No parameter set for {', '.join(without)}: "
        if example is not None:
            text += f"pass one, convert(model, {example}=...), or "
        text += (
            f'register one, fs.register("{example or without[0]}", fs.fit(function, K=12,'
            ' domain=(-8, 12))), or let convert fit one, convert(model, unsupported="fit");'
            f" sets exist for {', '.join(registered())}."
        )
    return text + ' To leave them as they are: convert(model, unsupported="keep")'


def listing(sites: Sequence[Site]) -> str:
    """Layers with their activations, and what is the matter with them."""
    return "; ".join(
        f"{site.layer!r} ({site.activation}{': ' + site.reason if site.reason else ''})"
        for site in sites
    )


def kept_sites(
    sites: Sequence[Site], keep: Collection[str], keep_layers: Collection[str]
) -> set[Site]:
    """The sites that the caller wants to stay.

    Raises:
        ValueError: a name in `keep` is no activation, or one in `keep_layers` no layer of the model with one.
    """
    kept: set[Site] = set()
    for name in map(canonical_name, keep):
        matching = {site for site in sites if name in _names_of(site)}
        if not matching and name not in {*keras_activations(), *registered()}:
            has = sorted({site.activation for site in sites})
            raise ValueError(
                f"keep: {name!r} is no activation; the model has {', '.join(has) or 'none'}"
            )
        kept |= matching
    for name in keep_layers:
        matching = {site for site in sites if name in (site.layer, site.name)}
        if not matching:
            names = [site.layer for site in sites]
            close = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:5]
            raise ValueError(
                f"keep_layers: the model has no activation at {name!r}; close names:"
                f" {', '.join(close) or 'none'}"
            )
        kept |= matching
    return kept


def _names_of(site: Site) -> set[str]:
    """The names under which `keep` knows an activation."""
    relu6 = {"relu6"} if site.max_value == RELU6_MAX else set()
    return {site.activation, base_name(site.activation), *relu6}


# --- how well a set fits a function -------------------------------------------------------------


def _check_is_for(name: str, parameters: FSParameters, sites: Sequence[Site]) -> None:
    """Raises ValueError where a set plainly is for another function than the one that it is given for."""
    default = keras_activations().get(name)
    functions = [s.function for s in sites if name in (s.activation, base_name(s.activation))
                 and s.max_value is None and s.convertible]  # fmt: skip
    functions += [default] if default is not None else []
    measured = [_errors(parameters, function) for function in functions]
    if not measured:
        return
    error, size = min(measured)
    if error >= size:
        raise ValueError(
            f"{name}={parameters.name!r}: that set is for another function; on its domain its root mean"
            f" square error is {error:.3g}, and {name} itself has {size:.3g}"
        )
    others = {
        other: _errors(parameters, function)
        for other, function in keras_activations().items()
        if other != name and is_element_wise(function)
    }
    best = min(others, key=lambda other: others[other][0])
    other_error, other_size = others[best]
    if other_error * _CLEARLY < error and other_error < _WELL * other_size:
        raise ValueError(
            f"{name}={parameters.name!r}: that set is for {best}, to which its root mean square error is"
            f" {other_error:.3g}; to {name} it is {error:.3g}"
        )


def _is_as_good(parameters: FSParameters, function: Function, base: str) -> bool:
    """Whether a set given for an activation is meant for one with these options."""
    default = keras_activations().get(base)
    if default is None:
        return False
    return _errors(parameters, function)[0] <= _AS_GOOD * _errors(parameters, default)[0]


def _errors(parameters: FSParameters, function: Function) -> tuple[float, float]:
    """Root mean squares on the domain of a set: of its error as `function`, and of the function itself."""
    low, high = parameters.domain
    low = low if math.isfinite(low) else min(FIT_DOMAIN[0], high - 1)
    high = high if math.isfinite(high) else max(FIT_DOMAIN[1], low + 1)
    x = np.linspace(low, high, 4001, dtype=np.float32)
    response = ops.convert_to_numpy(neuron.response(ops.convert_to_tensor(x), parameters))
    expected = _values(function, x)
    error = np.sqrt(np.mean((response.astype(np.float64) - expected) ** 2))
    return float(error), float(np.sqrt(np.mean(expected**2)))


def _values(function: Function, x: np.ndarray) -> np.ndarray:
    y = function(ops.convert_to_tensor(x.astype(np.float32)))
    return np.asarray(ops.convert_to_numpy(y), np.float64)
