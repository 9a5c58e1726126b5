"""The dtype of scoring that suits a device."""

import pytest
import torch

from trainers.scoring.precision import has_fast_bfloat16


@pytest.mark.parametrize("has_amx", [True, False])
def test_a_cpu_scores_in_bfloat16_only_with_amx(
    monkeypatch: pytest.MonkeyPatch, *, has_amx: bool
) -> None:
    # Processors of all kinds cannot be had here: what torch says about them is replaced.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert has_fast_bfloat16() is has_amx
