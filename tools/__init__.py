"What builds and checks the book. Run as modules from the repository's root: `python -m tools.test`."
