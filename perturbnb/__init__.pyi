from . import (
    annotation,
    bootstrap,
    cells,
    cluster,
    clustering,
    combinations,
    common,
    conditionals,
    consensus,
    datasets,
    designs,
    embedding,
    empirical_null,
    escaped,
    evidence,
    evidence_plots,
    explained,
    figures,
    fit_plots,
    gene_clusters,
    gene_networks,
    goodness,
    gram,
    guide_checks,
    levels,
    likelihood,
    model,
    multiplicative,
    network,
    network_plots,
    new_samples,
    number_of_programs,
    on_target,
    out_of_core,
    panels,
    panels_cells,
    panels_responses,
    pipeline,
    plots,
    preprocess,
    program_plots,
    programs,
    regulators,
    report,
    response,
    results,
    sandwich,
    simulate,
    stability,
    stages,
    targets,
    uncertainty,
    usage_effects,
    workers,
)
from .annotation import adopt_programs, annotate_programs, built_in_gene_sets, flag_technical, name_programs, project_programs, read_gmt, select_programs
from .bootstrap import Bootstrap, bootstrap_network
from .clustering import Groups, Modules, ResponseOrder, network_modules, response_groups, response_order
from .combinations import Combination, interaction_table, plot_combination, predict_combination
from .common import set_verbosity
from .consensus import find_programs, store_programs
from .designs import Design, cell_design, formula_design, screen_design
from .escaped import EscapedCells, escaped_cells
from .explained import explained_responses, usual_covariates
from .gene_networks import GeneSpins, PriorNetwork, gene_spins, infer_gene_network, known_interventions, prior_network
from .goodness import (
    Comparison,
    HeldOut,
    ModelCheck,
    NullEdges,
    Replicates,
    compare_with_model,
    fit_quality,
    held_out_fit,
    log_pseudo_likelihood,
    null_edges,
    replicate_agreement,
)
from .guide_checks import check_guides
from .levels import Levels, discretize, fit_levels
from .model import conditional_probabilities, energy, exact_moments, gibbs_sample, moments
from .network import SpinNetwork, infer_network
from .new_samples import infer_fields, representative_samples
from .number_of_programs import ProgramChoice, choose_n_programs
from .on_target import on_target_change
from .out_of_core import fits_memory, open_screen, write_screen
from .panels import network_panel
from .panels_cells import levels_panel, number_panel, qc_panel
from .panels_responses import fan_panel, positions_panel, response_panel
from .pipeline import Analysis, analyse_screen, run
from .preprocess import prepare_screen, summarise_screen
from .programs import Programs, onmf
from .regulators import Regulators, fit_regulators, plot_regulators, program_regulators
from .response import Response, guide_concordance, relative_response
from .simulate import simulate_screen
from .stability import Stability, draw_couplings, draw_responses, group_stability, module_stability, plot_resolution_scan, resolution_scan
from .targets import Targets, combine_guides, target_responses
from .uncertainty import Uncertainty, network_uncertainty
from .usage_effects import energy_test, total_effects

__version__: str
__all__ = [
    "Analysis", "Bootstrap", "Combination", "Comparison", "Design", "EscapedCells", "GeneSpins", "Groups", "HeldOut", "Levels",
    "ModelCheck", "Modules", "NullEdges", "PriorNetwork", "ProgramChoice", "Programs", "Regulators", "Replicates", "Response",
    "ResponseOrder", "SpinNetwork", "Stability", "Targets", "Uncertainty", "adopt_programs", "analyse_screen", "annotate_programs",
    "bootstrap_network", "built_in_gene_sets", "cell_design", "check_guides", "choose_n_programs", "combine_guides", "compare_with_model",
    "conditional_probabilities", "discretize", "draw_couplings", "draw_responses", "energy", "energy_test", "escaped_cells",
    "exact_moments", "explained_responses", "fan_panel", "find_programs", "fit_levels", "fit_quality", "fit_regulators", "fits_memory",
    "flag_technical", "formula_design", "gene_spins", "gibbs_sample", "group_stability", "guide_concordance", "held_out_fit",
    "infer_fields", "infer_gene_network", "infer_network", "interaction_table", "known_interventions", "levels_panel",
    "log_pseudo_likelihood", "module_stability", "moments", "name_programs", "network_modules", "network_panel", "network_uncertainty",
    "null_edges", "number_panel", "on_target_change", "onmf", "open_screen", "plot_combination", "plot_regulators", "plot_resolution_scan",
    "positions_panel", "predict_combination", "prepare_screen", "prior_network", "program_regulators", "project_programs", "qc_panel",
    "read_gmt", "relative_response", "replicate_agreement", "representative_samples", "resolution_scan", "response_groups",
    "response_order", "response_panel", "run", "screen_design", "select_programs", "set_verbosity", "simulate_screen", "store_programs",
    "summarise_screen", "target_responses", "total_effects", "usual_covariates", "write_screen",
    "annotation", "bootstrap", "cells", "cluster", "clustering", "combinations", "common", "conditionals", "consensus", "datasets",
    "designs", "embedding", "empirical_null", "escaped", "evidence", "evidence_plots", "explained", "figures", "fit_plots", "gene_clusters",
    "gene_networks", "goodness", "gram", "guide_checks", "levels", "likelihood", "model", "multiplicative", "network", "network_plots",
    "new_samples", "number_of_programs", "on_target", "out_of_core", "panels", "panels_cells", "panels_responses", "pipeline", "plots",
    "preprocess", "program_plots", "programs", "regulators", "report", "response", "results", "sandwich", "simulate", "stability", "stages",
    "targets", "uncertainty", "usage_effects", "workers",
]
