"""What makes a clip of frames (factory/draw/motion.py)."""

from __future__ import annotations

import torch

from factory.draw.motion import steadied


def test_what_flickers_is_taken_out_and_what_moves_stays() -> None:
    random = torch.Generator().manual_seed(0)
    still_FCHW = torch.randn((1, 8, 6, 6), generator=random).expand(16, -1, -1, -1)
    moving_FCHW = still_FCHW.clone()
    moving_FCHW[:, :, 2, 3] += 3 * torch.sin(torch.arange(16) / 16 * torch.pi)[:, None]
    flicker_FCHW = 0.1 * torch.randn(moving_FCHW.shape, generator=random)
    off_FCHW = steadied(moving_FCHW + flicker_FCHW, 3.0) - moving_FCHW
    assert off_FCHW.diff(dim=0).std() < 0.2 * flicker_FCHW.diff(dim=0).std()
    assert off_FCHW[:, :, 2, 3].std() < flicker_FCHW[:, :, 2, 3].std()


def test_a_clip_that_is_clean_stays_as_it_is() -> None:
    random = torch.Generator().manual_seed(0)
    still_FCHW = torch.randn((1, 4, 3, 3), generator=random).expand(7, -1, -1, -1)
    torch.testing.assert_close(steadied(still_FCHW, 3.0), still_FCHW)
    any_FCHW = torch.randn((5, 4, 3, 3), generator=random)
    torch.testing.assert_close(steadied(any_FCHW, 1e-9), any_FCHW)
    assert steadied(any_FCHW, 0.0) is any_FCHW
