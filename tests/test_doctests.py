"""Every docstring example of every module that can be imported here runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import ferkit

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(ferkit.__path__, "ferkit.")
    if not module.name.endswith(("__main__", "._C", "._C_autograd", "._C_cuda"))
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"needs an extra: {error}")
    torch.manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        outcome = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert outcome.failed == 0, f"{outcome.failed} of {outcome.attempted} examples fail (printed above)"
