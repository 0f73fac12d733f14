"""The layer-substitution pass, its report and its proof; batch normalisation folded into weights."""

from fs_neurons.conversion.exporting import export
from fs_neurons.conversion.folding import FoldingReport, fold
from fs_neurons.conversion.quantization import quantize
from fs_neurons.conversion.report import ConversionReport, conversion_report, trace_sites
from fs_neurons.conversion.substitution import convert
from fs_neurons.conversion.verification import verify

__all__ = [
    "ConversionReport",
    "FoldingReport",
    "conversion_report",
    "convert",
    "export",
    "fold",
    "quantize",
    "trace_sites",
    "verify",
]
