"""The bundle (weights, preprocessing and calibration under one fingerprint), the networks, and prediction."""
