"""The durable event log: append, seal, read, compact."""
