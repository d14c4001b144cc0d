"""Lets the tests import the helpers that lie beside this file, and gives property tests all the time they need."""

from hypothesis import settings

settings.register_profile("bitrl", deadline=None)  # a machine under load is no defect of the code
settings.load_profile("bitrl")
