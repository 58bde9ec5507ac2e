"""Gateway: Jupyter as batch jobs, in the browser."""

__version__ = "0.1.0"
