"""Events to one row per unit to moments to scorecard to `ExperimentView`."""
