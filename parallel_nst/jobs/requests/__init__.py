"""What each job is asked, as records: one module a job, `common` for what several ask.

The command line makes its options from their fields: name, type, default, bounds, help and place on the help page stand
here, in `recipe` and in `training.settings`, each once.

Free of PyTorch and Ray, which take seconds to load: help pages are made from this.
"""
