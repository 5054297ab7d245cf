from . import (
    annotation,
    clustering,
    common,
    consensus,
    datasets,
    embedding,
    gram,
    levels,
    model,
    multiplicative,
    network,
    network_plots,
    panels,
    pipeline,
    plots,
    preprocess,
    programs,
    report,
    response,
    simulate,
)
from .annotation import annotate_programs, built_in_gene_sets, flag_technical, name_programs, project_programs, read_gmt, select_programs
from .clustering import Groups, Modules, ResponseOrder, network_modules, response_groups, response_order
from .common import set_verbosity
from .consensus import ProgramChoice, choose_n_programs, find_programs, store_programs
from .levels import Levels, discretize, fit_levels
from .model import conditional_probabilities, energy, exact_moments, gibbs_sample, moments
from .network import SpinNetwork, fit_quality, infer_network
from .panels import network_panel
from .pipeline import Analysis, analyse_screen, run
from .preprocess import prepare_screen, summarise_screen
from .programs import Programs, onmf
from .response import Response, guide_concordance, relative_response
from .simulate import simulate_screen

__version__: str
__all__ = [
    "Analysis", "Groups", "Levels", "Modules", "ProgramChoice", "Programs", "Response", "ResponseOrder", "SpinNetwork",
    "analyse_screen", "annotate_programs", "built_in_gene_sets", "choose_n_programs", "conditional_probabilities", "discretize",
    "energy", "exact_moments", "find_programs", "fit_levels", "fit_quality", "flag_technical", "gibbs_sample", "guide_concordance",
    "infer_network", "moments", "name_programs", "network_modules", "network_panel", "onmf", "prepare_screen", "project_programs",
    "read_gmt", "relative_response", "response_groups", "response_order", "run", "select_programs", "set_verbosity",
    "simulate_screen", "store_programs", "summarise_screen",
    "annotation", "clustering", "common", "consensus", "datasets", "embedding", "gram", "levels", "model", "multiplicative", "network", "network_plots", "panels", "pipeline", "plots",
    "preprocess", "programs", "report", "response", "simulate",
]
