__version__ = "0.1.0"

def __getattr__(name): # importing eqbook imports no torch
    if name != "load": raise AttributeError(f"module 'eqbook' has no attribute {name!r}")
    from .models import load
    return load
