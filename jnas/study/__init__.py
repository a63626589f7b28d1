"""The trial loop: `search` runs a `Searcher` over an `Objective`.

Its trials live in an Optuna study, which many workers may share.
"""

from jnas.study.hooks import trials_jsonl, trials_progress, trials_tensorboard
from jnas.study.ledger import Progress, Result, Trial
from jnas.study.search import search
from jnas.study.storage import close_study, open_study

__all__ = [
    "Progress",
    "Result",
    "Trial",
    "close_study",
    "open_study",
    "search",
    "trials_jsonl",
    "trials_progress",
    "trials_tensorboard",
]
