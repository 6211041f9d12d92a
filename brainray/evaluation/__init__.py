"""Evaluation: counts of predictions, and the metrics, calibration and plots that are computed from them.

Must not read or write files, nor import torch or Ray.
"""
