"""Tables, plots and contact sheets made from runs. Every file appears whole or not at all."""

from importlib.util import find_spec

try:
    _found = find_spec("matplotlib") is not None
except (ImportError, ValueError):  # blocked by an import hook, or half-loaded
    _found = False
if not _found:
    raise ImportError('ferkit.reports needs matplotlib: pip install "ferkit[train]"')

from ferkit.reports._files import can_be_made, is_picture, replacing, save_figure, write_json, write_text
from ferkit.reports.anchors import plot_anchors
from ferkit.reports.annotators import plot_annotators
from ferkit.reports.compared_curves import plot_compared_curves
from ferkit.reports.confusion import plot_confusion
from ferkit.reports.curves import plot_curves
from ferkit.reports.decoder import decoder_sheet
from ferkit.reports.distributions import plot_distributions
from ferkit.reports.dmue import dmue_sheet
from ferkit.reports.faces import face_sheet
from ferkit.reports.mined_course import plot_mined_course
from ferkit.reports.neighbors import neighbor_sheet, plot_space
from ferkit.reports.study_plots import plot_sweep, plot_variants
from ferkit.reports.tables import comparison_table

__all__ = [
    "can_be_made",
    "comparison_table",
    "decoder_sheet",
    "dmue_sheet",
    "face_sheet",
    "is_picture",
    "neighbor_sheet",
    "plot_anchors",
    "plot_annotators",
    "plot_compared_curves",
    "plot_confusion",
    "plot_curves",
    "plot_distributions",
    "plot_mined_course",
    "plot_space",
    "plot_sweep",
    "plot_variants",
    "replacing",
    "save_figure",
    "write_json",
    "write_text",
]
