"""Evaluation of a network: metrics with intervals, calibration, comparisons and their report."""
