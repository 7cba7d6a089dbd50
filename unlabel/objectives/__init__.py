"""Methods of self-supervision: kernels, heads, state, and the catalogue of objectives."""
