"""The layer-substitution pass: every activation of a trained Keras model becomes a layer of FS-neurons.

    snn = convert(model)                                      # the paper's setting
    snn = convert(model, relu=relu_parameters(K=6, alpha=10), swish="my_swish.json")
    print(conversion_report(snn))                             # which site became what
    snn = convert(model, calibration_data=images, steps=5)    # fitted to the model's own inputs
    verify(model)                                             # the pass itself changes nothing

A site is an `Activation` or `ReLU` layer (or a relative), an operation such as `keras.ops.relu(x)`, or the
`activation=` argument of a dense or convolutional layer, which is split into the linear layer and a layer
of FS-neurons. Weights are carried over unchanged; the input model is never touched. Max-pooling behind
FS-ReLU is computed from its spikes: see pooling.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

import keras

from fs_neurons.calibration import Settings, calibrate
from fs_neurons.conversion.folding import fold
from fs_neurons.layers import fs_layer
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.rewriting import Rewriter
from fs_neurons.network.sites import Site, base_name, checked_sites
from fs_neurons.neuron import FSParameters, relu_parameters
from fs_neurons.neuron.sets import as_parameters, canonical_name, for_activation, registered


def convert(
    model: keras.Model,
    *,
    quality: str = "paper",
    keep: Collection[str] = (),
    unsupported: str = "raise",
    fold_batch_norm: bool = False,
    calibration_data: Any = None,
    steps: int | None = None,
    granularity: str = "channel",
    spike_penalty: float = 0.0,
    target_spikes: float | None = None,
    correction: str | None = None,
    **activations: FSParameters | str,
) -> keras.Model:
    """Replaces every activation of `model` by FS-neurons, weights unchanged unless it is calibrated.

    Args:
        model: Sequential or functional, with nested models of either kind; built.
        quality: which parameter sets to take: "paper" for the published ones, "accurate" for the
            fitted ones, "sparse" for those with the fewest spikes; see `parameters.for_activation`.
        keep: names of activations that stay as they are, such as ("sigmoid",).
        unsupported: what to do about activations that have no parameter set or sit where they can't
            be replaced: "raise", or "keep" them as they are; `conversion_report` lists them.
        fold_batch_norm: whether batch normalisation goes into the weights next to it, see `folding.fold`;
            what has to stay is warned of.
        calibration_data: unlabelled inputs that the model was trained for, preprocessed as it takes
            them: an array (a list or dictionary of them for several inputs) or an iterable over
            batches. Fits every site to its own gate inputs and the weights of the layers in between to
            what these gave before; see `calibration`. 500 to 1,000 images do.
        steps: K of all calibrated sites; that of the uncalibrated sets when missing.
        granularity: whether calibrated ReLUs get their range per "channel" or per "layer".
        spike_penalty: what a spike costs in calibration, relative to the squared error of its site;
            0.01 to 0.1 save spikes at little cost.
        target_spikes: spikes per neuron that calibration is to reach, by the least such penalty.
        correction: how calibration makes up for errors, one of `calibration.CORRECTIONS`; when missing,
            "joint" with up to four steps, or eight with a price on spikes, else "weights".
        activations: parameter sets by activation name, relu=..., swish=..., gelu=..., each FSParameters,
            the name of a set or a path; instead of the registered ones. The set for relu also gives
            the number of steps of ReLUs that saturate, such as ReLU6.

    Returns:
        A new model that shares nothing with `model`.

    Raises:
        ConversionError: a subclassed model, an unsupported activation, nothing to convert, or a model
            that was converted before.
        TypeError, ValueError, FileNotFoundError: wrong arguments, or calibration data that holds
            labels, NaN or too few images.
    """
    calibrated = _calibration_settings(
        calibration_data, activations, steps=steps, granularity=granularity,
        spike_penalty=spike_penalty, target_spikes=target_spikes, correction=correction,
    )  # fmt: skip
    if unsupported not in ("raise", "keep"):
        raise ValueError(f"unsupported must be 'raise' or 'keep', got {unsupported!r}")
    if isinstance(keep, str):
        raise TypeError(f"keep must be a list of activation names, got {keep!r}")
    chosen = _chosen_parameters(activations)
    if fold_batch_norm:
        model = _folded(model)
    kept = {canonical_name(name) for name in keep}
    sites = [site for site in checked_sites(model) if base_name(site.activation) not in kept]
    parameters_of: dict[Site, FSParameters] = {}
    refused: list[Site] = []
    for site in sites:
        parameters = _parameters_for(site, chosen, quality) if site.convertible else None
        if parameters is None:
            refused.append(site)
        else:
            parameters_of[site] = parameters
    if refused and unsupported == "raise":
        raise ConversionError(_refusal(refused))
    if not parameters_of:
        raise ConversionError(
            f"model {model.name!r} has no activation that could be converted"
            + (f": {_listing(refused)}" if refused else "; its layers are all linear")
        )
    found = {base_name(site.activation) for site in parameters_of}
    for name in sorted(chosen.keys() - found):
        warnings.warn(
            f"{name}=... was given, but model {model.name!r} has no such activation to convert"
            f" (it has {', '.join(sorted(found))})",
            stacklevel=2,
        )

    if calibrated is not None:
        return calibrate(model, parameters_of, calibration_data, calibrated)

    def replacement(site: Site, name: str, dtype: Any) -> keras.layers.Layer | None:
        parameters = parameters_of.get(site)
        if parameters is None:
            return None
        return fs_layer(parameters, site.activation, name=name, dtype=dtype)

    return Rewriter(replacement).rewrite(model)


def _folded(model: keras.Model) -> keras.Model:
    checked_sites(model)
    model, report = fold(model)
    if report.left:
        warnings.warn(
            f"left as they are in model {model.name!r}: "
            + "; ".join(f"{name!r}, {reason}" for name, reason in report.left.items()),
            stacklevel=3,
        )
    return model


def _calibration_settings(data: Any, activations: dict[str, Any], **arguments: Any) -> Any:
    """Settings of a calibration; None where there is none. Refuses what would be ignored."""
    settings = Settings(**arguments)
    if data is None:
        if settings != Settings():
            raise ValueError(
                "steps, granularity, spike_penalty, target_spikes and correction are settings of a"
                " calibration: give calibration_data as well, or relu=fs.relu_parameters(K, alpha)"
            )
        return None
    if activations:
        raise ValueError(
            f"{', '.join(sorted(activations))}=... and calibration_data: calibration chooses the"
            " parameter sets itself; give one or the other"
        )
    return settings


def _chosen_parameters(activations: dict[str, FSParameters | str]) -> dict[str, FSParameters]:
    chosen = {}
    for name, value in activations.items():
        known = canonical_name(name)
        if known not in registered() and not hasattr(keras.activations, known):
            raise TypeError(
                f"convert() got {name}=..., which is neither an argument nor an activation;"
                f" registered activations: {', '.join(registered())}"
            )
        chosen[known] = as_parameters(value)
    return chosen


def _parameters_for(
    site: Site, chosen: dict[str, FSParameters], quality: str
) -> FSParameters | None:
    if site.max_value is not None:
        relu = chosen.get("relu") or for_activation("relu", quality)
        return relu and relu_parameters(relu.K, site.max_value)
    return chosen.get(site.activation) or for_activation(site.activation, quality)


def _listing(sites: list[Site]) -> str:
    return "; ".join(
        f"{site.name!r} ({site.activation}{': ' + site.reason if site.reason else ''})"
        for site in sites
    )


def _refusal(refused: list[Site]) -> str:
    without = sorted({base_name(site.activation) for site in refused if site.convertible})
    text = f"{len(refused)} activations can't be converted: {_listing(refused)}."
    if without:
        text += (
            f" No parameter set for {', '.join(without)}: pass one, convert(model, {without[0]}=...), or"
            f" register(name, parameters); sets exist for {', '.join(registered())}."
        )
    return text + ' To leave them as they are: convert(model, unsupported="keep")'
