"""Models: the bundle on disk, network architectures, and inference on one device.

Must not import Ray. Only `networks`, `efficientnet_lite`, `fusion` and `predictor` import torch; `bundle` must not.
"""
