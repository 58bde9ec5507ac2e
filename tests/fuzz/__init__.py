"""Job scripts with hostile values in them: whatever people and site configs say stays data."""
