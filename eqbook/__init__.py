__version__ = "0.1.0"

def __getattr__(name): # importing eqbook imports no torch
    if name != "load": raise AttributeError(f"module 'eqbook' has no attribute {name!r}")
    from .models import load
    return load

def main():
    "Entry point of the console script: Ctrl-C is one line, also while the commands are read in."
    try:
        from .cli import main as commands
        commands()
    except KeyboardInterrupt:
        import sys
        print("eqbook: stopped", file=sys.stderr)
        raise SystemExit(130) from None
