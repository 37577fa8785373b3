"""Training: datasets, augmentation, networks, fitting and evaluation, in backend-neutral Keras 3."""
