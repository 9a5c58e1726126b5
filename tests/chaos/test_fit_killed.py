"""A round that is killed repeatedly ends with the same bits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fit_process import FitRequest, launch, observed, result
from killed_fits import KILLED, assert_the_same_bits, requests_in, without_place

from trainers import checkpoint


@pytest.fixture(scope="module")
def request_at(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], FitRequest]:
    return requests_in(tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def undisturbed(request_at: Callable[[str], FitRequest]) -> FitRequest:
    request = request_at("undisturbed")
    assert launch(request) == 0
    return request


def test_a_round_killed_repeatedly_ends_with_the_same_weights(
    request_at: Callable[[str], FitRequest], undisturbed: FitRequest
) -> None:
    request = request_at("killed")
    for step in (1, 6, 17):  # before the first checkpoint, between two, and short of the end
        assert launch(replace(request, kill_after_step=step)) == KILLED
        assert not Path(f"{request.out}/{checkpoint.MARKER}").exists()
    assert launch(request) == 0
    assert_the_same_bits(request.out, undisturbed.out)
    assert observed(request).equals(observed(undisturbed))
    assert without_place(result(request)) == without_place(result(undisturbed))
