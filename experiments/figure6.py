"""Figures 6B, 6C and 6D: error of the emulation against the number of steps and the bits of parameters.

    python -m experiments.figure6 --panel=b      # Swish, mean squared error against K
    python -m experiments.figure6 --panel=c      # Swish, K = 16, against the bits Q of T, h and d
    python -m experiments.figure6 --panel=d      # sigmoid, K = 12, against Q
    python -m experiments.figure6 --panel=b --refit

Drawn from the fits in params/fits/; --refit makes them anew, which takes much longer; with --effort they are
written to params/fits_partial/ instead. In 6C and 6D the
parameters are restricted to 2^Q equally spaced values from -8 to 8 inclusive. Writes figure6b.png, .json
and .csv to --output_dir.
"""

from __future__ import annotations

import json

from absl import flags
from tabulate import tabulate

from experiments import fit_parameters, results, runner
from experiments.plotting import ANN, PAPER, SNN, plt, save

FLAGS = flags.FlagValues()
flags.DEFINE_enum("panel", "b", ["b", "c", "d"], "Which of 6B, 6C and 6D.", flag_values=FLAGS)
flags.DEFINE_bool("refit", False, "Fit anew instead of reading params/fits/.", flag_values=FLAGS)
fit_parameters.define_search_flags(FLAGS)
runner.define_output_flag(FLAGS)

METHODS = {
    "bptt": ("the paper's method", PAPER),
    "exact": ("exact fit", SNN),
}
CHOSEN = {"K": 16}  # of the published set for Swish


def main() -> None:
    figure = f"6{FLAGS.panel}"
    path = runner.params_path(None, "fits") / f"figure{figure}.json"
    complete = not FLAGS.refit or FLAGS.effort is None
    if FLAGS.refit:
        # Apart until all are made: neither a kill nor less effort replaces the complete fits.
        made = runner.params_path(None, "fits", complete=False) / path.name
        fit_parameters.fit_figure(figure, made, fit_parameters.search_options(FLAGS))
        path = made.replace(path) if complete else made
    if not path.exists():
        raise FileNotFoundError(f"no {path}: make it with --refit")
    fits = json.loads(path.read_text(encoding="utf-8"))
    argument = "K" if FLAGS.panel == "b" else "Q"
    curves = {
        label: [(p[argument], p["mse"]) for p in fits["points"] if p["method"] == method]
        for method, (label, _) in METHODS.items()
    }
    rows = sorted({x for curve in curves.values() for x, _ in curve})
    table = {argument: rows, **{k: [dict(c).get(x) for x in rows] for k, c in curves.items()}}

    figure_, axes = plt.subplots(figsize=(5, 4), layout="constrained")
    for method, (label, color) in METHODS.items():
        if curves[label]:
            named = f"{label} (BPTT), fitted here" if method == "bptt" else label
            axes.plot(
                *zip(*curves[label], strict=True), "o-", color=color, markersize=4, label=named
            )
    chosen = [
        (p[argument], p["mse"]) for p in fits["points"] if p[argument] == CHOSEN.get(argument)
    ]
    if chosen:
        axes.plot(
            *zip(*chosen, strict=True), "x", color=ANN, markersize=9, markeredgewidth=2, zorder=3,
            label=f"{argument} = {CHOSEN[argument]}, chosen in the paper",
        )  # fmt: skip
    low, high = fits["domain"]
    shown = rows if len(rows) < 14 else [x for x in rows if x % 2 == 0]
    axes.set(yscale="log", ylabel=f"mean squared error on [{low:g}, {high:g}]", xticks=shown)
    axes.set(
        xlabel="time steps K" if argument == "K" else "bits Q per parameter",
        title=f"6{FLAGS.panel.upper()}  {fits['function'].capitalize()}"
        + ("" if argument == "K" else f", K = {fits['points'][0]['K']}"),
    )
    figure_.legend(loc="outside lower center", fontsize=8)
    output = runner.path(FLAGS, f"figure{figure}", complete=complete)
    save(figure_, output.with_suffix(".png"))
    results.write_csv(output.with_suffix(".csv"), table)
    made_by = results.provenance(f"{fits['function']} on [{low:g}, {high:g}]", images=0)
    rows = [{key: point[key] for key in ("method", argument, "mse")} for point in fits["points"]]
    results.write_json(
        output.with_suffix(".json"),
        {**made_by, "function": fits["function"], "fits_made_by": fits["command"], "rows": rows},
    )
    print(tabulate(table, headers="keys", floatfmt=".3g"))
    print(f"Written to {output}.png, .json and .csv; fits: {fits['command']}")


if __name__ == "__main__":
    runner.run(main, FLAGS)
