"""The durable event log: append, seal, read, compact.

`LogWriter` writes, `read_frames` reads, `intake` turns HTTP bodies into records, `Compactor` turns the log into Parquet
files under a `Manifest`.
"""
