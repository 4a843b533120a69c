"""The demonstration behind ``scripts/demo``: a real dataset, a real S3 server, many readers, every byte compared."""
