"""Retrieval quality and cost of models, dimensions, precisions and instructions on one data set."""

from .choice import choose
from .choice_report import Choice
from .datasets import Dataset
from .evaluation import evaluate
from .readers import read_dataset
from .report import Report

__all__ = ["Choice", "Dataset", "Report", "choose", "evaluate", "read_dataset"]
