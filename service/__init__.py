"""The service: cells in over gRPC or HTTP, answers out, every answer on record."""
