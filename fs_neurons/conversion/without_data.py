"""Ranges without data: parameters that fit what a model's own weights say of its gate inputs.

A gate input behind batch normalization has a known mean and standard deviation in each channel, and so has what
follows from it. Each channel gets the parameters with the least expected error; what rests on a guess about the
model's inputs keeps the registered set. See `calibration.statistics` and `calibration.selection`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import keras

from fs_neurons.calibration import InputStatistics, input_statistics
from fs_neurons.calibration.selection import Selection, can_choose, choose, outside, price_of_spikes
from fs_neurons.network.activations import base_name
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.sites import Site
from fs_neurons.neuron import FSParameters, NeuronParameters
from fs_neurons.neuron.families import family_steps

# From this share of a site's gate inputs outside what its parameters cover on, `convert` warns.
WARN_OUTSIDE = 0.01
# What a spike costs at each quality, in units of the variance of a site's output; None: as little as `choose`
# has it.
SPIKE_PENALTIES: dict[str, float | None] = {"accurate": None, "sparse": 0.003}


def statistics_of(model: keras.Model) -> InputStatistics | None:
    """Statistics of a model's gate inputs; None where its graph can't be traced."""
    try:
        return input_statistics(model)
    except ConversionError:
        return None


def select(
    statistics: InputStatistics | None,
    sites: Mapping[Site, FSParameters],
    quality: str,
    steps: int | None,
) -> dict[Site, Selection]:
    """Parameters by site, where statistics tell better ones than the registered set.

    Args:
        statistics: of the model's gate inputs.
        sites: with their registered sets.
        quality: "accurate" or "sparse".
        steps: the most that a site may take; as many as its registered set, or its family, where missing.

    Raises:
        ConversionError: a site has no set of so few steps.
    """
    penalty = SPIKE_PENALTIES[quality]
    steps_of = {
        site.name: _steps_for(site, steps) or (family_steps(site.activation) or (0,))[-1]
        for site in sites
        if not site.gate
    }
    price = price_of_spikes(
        [s for s in statistics or () if s.site in steps_of and s.trusted],
        lambda s: steps_of[s.site],
    )
    found = {s.site: s for s in statistics} if statistics is not None else {}
    selected = {}
    for site, registered in sites.items():
        statistic = found.get(site.name)
        # Of gates, families have no members with as few spikes as the sparse sets.
        if statistic is not None and statistic.trusted and not (site.gate and quality == "sparse"):
            most, of_spikes = (steps or registered.K, 0.0) if site.gate else (steps, price)
            selection = choose(statistic, site, _steps_for(site, most), penalty, of_spikes)
            if selection is not None:
                selected[site] = selection
                continue
        if steps is not None and steps < registered.K:
            raise ConversionError(
                f"{site.layer!r} ({site.activation}) has no set of at most {steps} steps without data, only"
                f" one of {registered.K}: give calibration_data, or a set of your own,"
                f" {base_name(site.activation)}=..."
            )
    return selected


def note_on(
    site: Site, statistics: InputStatistics | None, chosen: Mapping[Site, Selection]
) -> str:
    """What the report says of a site whose parameters were left to `convert`; nothing where statistics tell them."""
    if site in chosen:
        return ""
    known = next((s for s in statistics or () if s.site == site.name), None)
    if known is None or not known.known:
        return "statistics unknown"
    return "" if known.trusted else "statistics assumed"


def _steps_for(site: Site, steps: int | None) -> int | None:
    """The largest number of steps up to `steps` for which there are sets."""
    families = family_steps(site.activation)
    if steps is None or not families:
        return steps
    few_enough = [K for K in families if steps >= K]
    if not few_enough:
        raise ConversionError(
            f"{site.layer!r} ({site.activation}): without data there are sets of"
            f" {', '.join(map(str, families))} steps, none of at most {steps}; give calibration_data"
        )
    return few_enough[-1]


def warn_of_outside(
    statistics: InputStatistics | None,
    chosen: Mapping[Site, NeuronParameters],
    selected: Mapping[Site, Selection],
    stacklevel: int,
) -> None:
    """Warns of sites whose parameters will leave out more than WARN_OUTSIDE of their gate inputs."""
    if statistics is None:
        return
    found = {s.site: s for s in statistics}
    shares: dict[Site, float] = {}
    for site, parameters in chosen.items():
        statistic = found.get(site.name)
        if statistic is not None and statistic.trusted:
            share = (
                selected[site].outside
                if site in selected
                else outside(statistic, site.function, parameters)
            )
            if share is not None and share > WARN_OUTSIDE:
                shares[site] = share
    if not shares:
        return
    worst = sorted(shares, key=lambda site: -shares[site])
    listed = ", ".join(
        f"{site.layer!r} ({site.activation}) {shares[site]:.0%} of its inputs" for site in worst[:5]
    )
    names = sorted({base_name(site.activation) for site in shares})
    # Of what the caller chose, or the published sets: `convert` would have chosen others.
    own = sorted({base_name(s.activation) for s in shares if s not in selected and can_choose(s)})
    advice = (
        f"Leave the choice of sets for {', '.join(own)} to convert(model), or give"
        if own
        else "Give"
    )
    warnings.warn(
        f"outside what their parameters cover at {len(shares)} of {len(chosen)} sites, by the statistics of"
        f" the model: {listed}{', ...' if len(shares) > 5 else ''}. {advice}"
        f" calibration_data, or a set for a wider range: {names[0]}={_example(names[0])}",
        stacklevel=stacklevel + 1,
    )


def _example(activation: str) -> str:
    if activation == "relu":
        return "fs.relu_parameters(K, alpha) with a larger alpha"
    return f"fs.fit({activation!r}, K, domain) for a wider domain"
