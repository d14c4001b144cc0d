"""Gives property tests all the time they need, and begins with the tests that take longest."""

import gc
import signal

import pytest
from hypothesis import settings

from bitrl.core.wording import command_line

settings.register_profile("bitrl", deadline=None)  # a machine under load is no defect of the code
settings.load_profile("bitrl")

gc.disable()  # until all tests are collected: what that makes stays, and would be looked through again and again

LONGEST = (
    "test_sanitizers",
    "test_fuzz",
    "test_arm",
    "test_studies",
    "test_ray",
    "test_report",  # reads the study that the two before it compare with, as does the next
    "test_recorded",
    "test_resume",
    "test_pretraining",
)
"""Modules with tests of ten seconds and more, and those that share what takes so long to make."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest come first: at the end of a run, one of them would keep one worker busy and leave the other idle."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def signals_as_in_a_terminal():
    """Under nohup or in a script's background these are ignored, also by programs that the tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for each in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(each) is signal.SIG_IGN:
            signal.signal(each, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def worded_as_on_the_command_line():
    """Errors name flags; tests/core/test_wording.py has what they say to who called Python."""
    with command_line():
        yield


@pytest.fixture(autouse=True)
def programs_on_the_path(request, monkeypatch):
    """Hints say `bitrl` and `pip`; test_wording.py and test_hints.py have what they say elsewhere."""
    if request.module.__name__ != "test_wording":
        monkeypatch.setattr("bitrl.core.wording._runs", lambda *names: True)
