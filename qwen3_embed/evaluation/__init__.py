"""Retrieval quality and cost of models, dimensions, precisions and instructions on one data set."""

from .datasets import Dataset
from .evaluation import evaluate
from .readers import read_dataset
from .report import Report

__all__ = ["Dataset", "Report", "evaluate", "read_dataset"]
