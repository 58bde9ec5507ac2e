"""How many small faults in what reads the schedulers the unit tests notice: ``make mutants``."""
