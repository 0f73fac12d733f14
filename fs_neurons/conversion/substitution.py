"""The layer-substitution pass: every activation of a trained Keras model becomes a layer of FS-neurons.

    snn = convert(model)                                      # ranges from the model's own weights
    snn = convert(model, quality="paper")                     # the published sets and setting
    snn = convert(model, relu=relu_parameters(K=6, alpha=10), swish="my_swish.json")
    print(conversion_report(snn))                             # which site became what
    snn = convert(model, calibration_data=images, steps=5)    # fitted to the model's own inputs
    verify(model)                                             # the pass itself changes nothing

A site is an `Activation` or `ReLU` layer (or a relative), an operation such as `keras.ops.relu(x)`, or the
`activation=` argument of a dense or convolutional layer, which is split into the linear layer and a layer
of FS-neurons. A PReLU with a slope for each channel becomes two ReLUs; the gates of a recurrent layer become layers
of FS-neurons inside of its cell. Weights are carried over unchanged; the input model is never touched. Max-pooling
behind FS-ReLU is computed from its spikes: see layers/pooling.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import keras
import numpy as np

from fs_neurons.calibration import Settings, calibrate
from fs_neurons.calibration.data import checked_inputs
from fs_neurons.calibration.selection import Selection
from fs_neurons.conversion.choosing import Sets, fitted, kept_sites, listing, refusal
from fs_neurons.conversion.folding import fold
from fs_neurons.conversion.inputs import InputCode, with_folded_inputs
from fs_neurons.conversion.without_data import (
    note_on,
    select,
    statistics_of,
    warn_of_outside,
)
from fs_neurons.layers import FSActivation, fs_layer
from fs_neurons.network.activations import base_name
from fs_neurons.network.coding import Coding
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.graph import some_inputs, trace
from fs_neurons.network.keras_internals import input_structure
from fs_neurons.network.rewriting import Rewriter
from fs_neurons.network.sites import Site, checked_sites
from fs_neurons.network.splitting import split_prelus
from fs_neurons.network.structure import idle_layers
from fs_neurons.neuron import FSParameters, NeuronParameters

UNSUPPORTED = ("raise", "keep", "fit")
DIGITAL = ("any", "none")


def convert(
    model: keras.Model,
    *,
    quality: str = "accurate",
    keep: Collection[str] = (),
    keep_layers: Collection[str] = (),
    unsupported: str = "raise",
    convert_outputs: bool = False,
    fold_batch_norm: bool = False,
    calibration_data: Any = None,
    steps: int | None = None,
    granularity: str = "channel",
    spike_penalty: float = 0.0,
    target_spikes: float | None = None,
    correction: str | None = None,
    input_bits: int | None = None,
    input_range: tuple[float, float] | None = None,
    digital: str = "any",
    verbose: bool = False,
    **activations: FSParameters | str,
) -> keras.Model:
    """Replaces every activation of `model` by FS-neurons, weights unchanged unless it is calibrated.

    Args:
        model: Sequential or functional, with nested models of either kind; built.
        quality: which parameters to take: "accurate" for the fitted ones, whose ranges are derived from the
            model's own weights, channel by channel; "sparse" for those with fewer spikes; "paper" for
            the published sets, one for each activation, which is what the paper's tables use.
        keep: names of activations that stay as they are, such as ("sigmoid", "relu6").
        keep_layers: names of layers whose activation stays, as `find_sites` has them: "block/conv".
        unsupported: what to do about activations that have no parameter set or sit where they can't
            be replaced: "raise"; "keep" them as they are, `conversion_report` lists them; or "fit" a set
            to each function that has none, and say how good it is.
        convert_outputs: whether a sigmoid, tanh or relative that is the model's output is converted as
            well. Otherwise it stays, as softmax does: it is a result, and not an input of neurons.
        fold_batch_norm: whether batch normalisation goes into the weights next to it, see `conversion.fold`;
            what has to stay is warned of.
        calibration_data: unlabelled inputs that the model was trained for, preprocessed as it takes
            them: an array (a list or dictionary of them for several inputs) or an iterable over
            batches. Fits every site to its own gate inputs and the weights of the layers in between to
            what these gave before; see `calibration`. 500 to 1,000 images do.
        steps: K of all calibrated sites, that of the uncalibrated sets when missing; without data, the
            largest K that a site may have.
        granularity: whether calibrated sites get their range or set per "channel" or per "layer".
        spike_penalty: what a spike costs in calibration, relative to the squared error of its site;
            0.01 to 0.1 save spikes at little cost.
        target_spikes: spikes per neuron that calibration is to reach, by the least such penalty.
        correction: how calibration makes up for errors, one of `calibration.CORRECTIONS`; when missing,
            "joint" with up to three steps, or eight with a price on spikes, else "weights".
        input_bits: codes the inputs by FS-neurons of so many steps, in binary: the first layer then
            accumulates like all others. Normalisation in front of it goes into its weights. Numbers between
            the codes are rounded to the nearest.
        input_range: (low, high) of the inputs, high not included: with (0, 256) and 8 bits, pixels are coded
            without error. When missing, that of the least squared error on `calibration_data`.
        digital: "any", or "none" to refuse a network in which anything between the inputs and the class
            scores needs a multiplier, see `network.coding`.
        verbose: whether calibration shows a progress bar.
        activations: parameter sets by activation name, relu=..., swish=..., gelu=..., each FSParameters,
            the name of a set or a path; instead of the registered ones. The set for relu also gives
            the number of steps of ReLUs that saturate, such as ReLU6.

    Returns:
        A new model that shares nothing with `model`. Augmentation layers, which do nothing at inference,
        are left out of it, with a warning; so is a compile state that Keras can't make anew.

    Raises:
        ConversionError: a subclassed model, an unsupported activation, nothing to convert, a model
            that was converted before, or one that needs a multiplier in spite of `digital`.
        TypeError, ValueError, FileNotFoundError: wrong arguments, or calibration data that holds
            labels, NaN or too few images.
    """
    calibrated = _calibration_settings(
        calibration_data, activations, steps=steps, granularity=granularity,
        spike_penalty=spike_penalty, target_spikes=target_spikes, correction=correction,
    )  # fmt: skip
    if unsupported not in UNSUPPORTED:
        raise ValueError(f"unsupported must be 'raise', 'keep' or 'fit', got {unsupported!r}")
    if digital not in DIGITAL:
        raise ValueError(f"digital must be one of {', '.join(DIGITAL)}, got {digital!r}")
    if input_range is not None and input_bits is None:
        raise ValueError("input_range is that of coded inputs: give input_bits as well")
    for name, names in (("keep", keep), ("keep_layers", keep_layers)):
        if isinstance(names, str):
            raise TypeError(f"{name} must be a list of names, got {names!r}")
    kept = kept_sites(checked_sites(model), keep, keep_layers)
    model = split_prelus(model, lambda site: site not in kept)
    idle = idle_layers(model)
    statistics = None if calibrated else statistics_of(model)  # folding loses them
    if fold_batch_norm:
        model = _folded(model)
    code: InputCode | None = None
    if input_bits is not None:
        data = None if calibrated is None else checked_inputs(model, calibration_data)
        code = InputCode(model, input_bits, input_range, data)
        model = with_folded_inputs(model)
        if data is not None:
            structure = input_structure(model)
            calibration_data = keras.tree.pack_sequence_as(structure, code.decoded(data))
    every = checked_sites(model)
    kept = kept_sites(every, keep, keep_layers)
    heads = [] if convert_outputs else [site for site in every if site.is_output]
    sites = [site for site in every if site not in kept and site not in heads]
    sets = Sets(activations, quality, every)
    found = {site: sets.of(site) for site in sites if site.convertible}
    parameters_of = {site: x for site, x in found.items() if x is not None}
    if unsupported == "fit":
        parameters_of |= fitted([site for site in sites if site not in parameters_of])
    refused = [site for site in sites if site not in parameters_of]
    if refused and unsupported != "keep":
        raise ConversionError(refusal(refused))
    if not parameters_of:
        raise ConversionError(_nothing_to_convert(model, kept, heads, refused))
    sets.warn_of_unused(model.name, parameters_of.keys(), heads)
    if idle:
        warnings.warn(
            f"left out of the conversion of model {model.name!r}, since they do nothing at inference:"
            f" {', '.join(map(repr, idle))}",
            stacklevel=2,
        )

    if calibrated is not None:
        snn = calibrate(model, parameters_of, calibration_data, calibrated, verbose)
        return _finished(snn, code, digital)

    selected: dict[Site, Selection] = {}
    notes: dict[Site, str] = {}
    if quality != "paper":
        free = {site: x for site, x in parameters_of.items() if not sets.is_given(site)}
        selected = select(statistics, free, quality, steps)
        notes = {site: note_on(site, statistics, selected) for site in free}
    chosen = parameters_of | {site: selected[site].parameters for site in selected}
    _check_steps(chosen, steps)
    snn = _substituted(model, chosen, selected, notes)
    covered = {
        s: x for s, x in chosen.items() if not (s in selected and selected[s].scale is not None)
    }
    warn_of_outside(statistics, covered, selected, stacklevel=2)
    return _finished(snn, code, digital)


def _substituted(
    model: keras.Model,
    chosen: Mapping[Site, NeuronParameters],
    selected: Mapping[Site, Selection],
    notes: Mapping[Site, str],
) -> keras.Model:
    """A new model with FS-neurons at its sites."""
    scales: list[tuple[FSActivation, np.ndarray]] = []

    def replacement(site: Site, name: str, dtype: Any) -> keras.layers.Layer | None:
        if site not in chosen:
            return None
        selection = selected.get(site)
        per_channel = selection is not None and selection.scale is not None
        layer = fs_layer(
            chosen[site], site.activation, per_channel=per_channel,
            axis=selection.axis if selection else -1, note=notes.get(site, ""), name=name,
            dtype=dtype,
        )  # fmt: skip
        if selection is not None and selection.scale is not None:
            scales.append((layer, selection.scale))
        return layer

    snn = Rewriter(replacement).rewrite(model)
    for layer, scale in scales:
        layer.scale.assign(scale)
    return snn


def _finished(snn: keras.Model, code: InputCode | None, digital: str) -> keras.Model:
    """With coded inputs; refused where it needs a multiplier and must not."""
    if code is not None:
        snn = code.put_in_front(snn)
    if digital == "none":
        needed = Coding(trace(snn, some_inputs(snn))).digital
        if needed:
            raise ConversionError(
                f"digital='none': {len(needed)} layers of model {snn.name!r} need a multiplier, or hand on"
                " values that need one: "
                + "; ".join(f"{call.name!r} {reason}" for call, reason in needed.items())
            )
    return snn


def _check_steps(chosen: Mapping[Site, NeuronParameters], steps: int | None) -> None:
    """Raises ConversionError where sets that were asked for have more steps than a site may have."""
    longer = [site for site, parameters in chosen.items() if steps and steps < parameters.K]
    if longer:
        site, parameters = longer[0], chosen[longer[0]]
        raise ConversionError(
            f"{site.layer!r} ({site.activation}) would have {parameters.name!r} with {parameters.K} steps,"
            f" more than steps={steps}: give a set of fewer steps for {base_name(site.activation)}, leave"
            " steps out, or take another quality"
        )


def _nothing_to_convert(
    model: keras.Model, kept: Collection[Site], heads: list[Site], refused: list[Site]
) -> str:
    reasons = []
    if heads:
        reasons.append(
            f"{listing(heads)} is its output: to convert that too, convert(model, convert_outputs=True)"
        )
    if kept:
        reasons.append(f"kept as asked for: {listing(sorted(kept, key=lambda site: site.name))}")
    if refused:
        reasons.append(listing(refused))
    text = "; ".join(reasons) or "its layers are all linear"
    return f"model {model.name!r} has no activation that could be converted: {text}"


def _folded(model: keras.Model) -> keras.Model:
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
        if settings != Settings(steps=settings.steps):
            raise ValueError(
                "granularity, spike_penalty, target_spikes and correction are settings of a calibration:"
                " give calibration_data as well"
            )
        return None
    if activations:
        raise ValueError(
            f"{', '.join(sorted(activations))}=... and calibration_data: calibration chooses the"
            " parameter sets itself; give one or the other"
        )
    return settings
