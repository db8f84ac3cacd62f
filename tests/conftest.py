"""Settings of the whole test tree."""

from hypothesis import settings

# A law is true or false, not fast or slow: on a loaded machine hypothesis' own time limit per example only flakes.
settings.register_profile("house", deadline=None)
settings.load_profile("house")
