"""Training: datasets, augmentation, networks, the training loop and evaluation, in backend-neutral Keras 3."""
