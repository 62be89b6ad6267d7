"""The control port: REST, and the intake of outcomes and exposures."""
