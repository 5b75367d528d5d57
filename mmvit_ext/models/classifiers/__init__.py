"""Classifiers and what their classes are read from."""

from .cam_classifier import CAMClassifier

__all__ = ['CAMClassifier']
