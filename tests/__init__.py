"""The laws of this project, for every model, source and scheduler; `naive` holds the formulas as loops."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # no timing decides a test
settings.load_profile("untimed")
