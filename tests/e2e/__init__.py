"""Steps on a real cluster: `make e2e`, or one of them: `make e2e STEP=words of its name`."""
