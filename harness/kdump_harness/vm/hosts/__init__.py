"""The host that guests run on: this one, or another one that is reached by SSH."""
