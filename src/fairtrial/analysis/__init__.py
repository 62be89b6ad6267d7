"""Domain: events become one row per unit, rows become moments, moments become one `ExperimentView`."""
