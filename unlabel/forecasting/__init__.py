"""The parts of a `Forecaster`: model, fit, training, covariates, scores, command."""
