"""Training: data set, splits, augmentation, loop, checkpoints, report, hyperparameter search. Knows no Ray."""
