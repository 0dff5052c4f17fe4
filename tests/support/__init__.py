"""Models, rivals, servers and oracles that several tests use."""
