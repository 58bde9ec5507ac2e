"""The catalogue of planted faults: each breaks one thing, and ``gateway doctor`` has to name it."""
