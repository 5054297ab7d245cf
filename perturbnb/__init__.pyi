from . import clustering, common, consensus, datasets, embedding, gram, levels, model, multiplicative, network, network_plots, panels, pipeline, plots, preprocess, programs, report, response, simulate
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
    "analyse_screen", "choose_n_programs", "conditional_probabilities", "discretize", "energy", "exact_moments",
    "find_programs", "fit_levels", "fit_quality", "gibbs_sample", "guide_concordance", "infer_network", "moments",
    "network_modules", "network_panel", "onmf", "prepare_screen", "relative_response", "response_groups",
    "response_order", "run", "set_verbosity", "simulate_screen", "store_programs", "summarise_screen",
    "clustering", "common", "consensus", "datasets", "embedding", "gram", "levels", "model", "multiplicative", "network", "network_plots", "panels", "pipeline", "plots",
    "preprocess", "programs", "report", "response", "simulate",
]
