"""Local doubles of the services that the sweeps talk to, for tests without an account or a network."""
