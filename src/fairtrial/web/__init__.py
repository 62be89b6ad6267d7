"""Server-rendered pages over `ExperimentView`."""
