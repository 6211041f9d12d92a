"""Training: data set, splits, augmentation, loop, checkpoints, report, hyperparameter search. Imports no Ray."""
