"""gpucost: the GPU cost ledger for Kubernetes."""

__version__ = "0.1.0"
