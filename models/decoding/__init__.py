"""From next-symbol distributions to sequences: greedy, sampled and beam search.

Knows neither networks nor tasks, only a step. What a row gets depends on that row alone, whoever
shares its batch; rows that have finished drop out.
"""

from models.decoding.beam import beam_search
from models.decoding.ensemble import ensemble
from models.decoding.hypotheses import Context, Hypotheses, Step
from models.decoding.options import DecodingOptions, search
from models.decoding.rollout import greedy, sample
from models.decoding.scoring import score
from models.decoding.stochastic import stochastic_beam_search

__all__ = [
    "Context", "DecodingOptions", "Hypotheses", "Step", "beam_search", "ensemble", "greedy",
    "sample", "score", "search", "stochastic_beam_search",
]  # fmt: skip
