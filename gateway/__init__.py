"""Gateway: Jupyter and other web applications as batch jobs, in the browser."""

__version__ = "0.1.0"
