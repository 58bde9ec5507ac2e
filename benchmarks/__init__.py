"""Measurements of the gateway against what people use today."""
