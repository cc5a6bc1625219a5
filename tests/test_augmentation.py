"""Augmentation against numpy, image by image, and whose draws they are."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adarelu_sweep.training.augmentation import Augmentation, CropFlip, augmentation
from adarelu_sweep.training.registry import AUGMENTATIONS
from adarelu_sweep.training.settings import TrainingSettings
from adarelu_sweep.training.streams import batch_order, generator
from tests.trials import begin, never, trial_settings

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


def crop_flip(
    images: int, padding: int = 4, flip: bool = True, seed: int = 0, epoch: int = 0
) -> CropFlip:
    component = AUGMENTATIONS.resolve({"name": "crop_flip", "padding": padding, "flip": flip})
    made = augmentation(component, seed, epoch, images, CPU)
    assert isinstance(made, CropFlip)
    return made


def pictures(count: int, channels: int = 3, height: int = 9, width: int = 7) -> Tensor:
    draws = torch.Generator().manual_seed(count)
    shape = (count, channels, height, width)
    return torch.randint(1, 256, shape, generator=draws, dtype=torch.uint8)


def plainly(image: npt.NDArray[np.uint8], draws: CropFlip, index: int) -> npt.NDArray[np.uint8]:
    """Pad with zeros, crop, mirror: one image, C x H x W."""
    _, height, width = image.shape
    around = (draws.padding, draws.padding)
    padded = np.pad(image, ((0, 0), around, around))
    row, column = int(draws.rows[index]), int(draws.columns[index])
    cropped = padded[:, row : row + height, column : column + width]
    return cropped[:, :, ::-1] if draws.mirrored[index] else cropped


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(
        st.integers(1, 8), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9)
    ),
    padding=st.integers(0, 16),
    flip=st.booleans(),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_it_pads_crops_and_mirrors(
    shape: tuple[int, int, int, int], padding: int, flip: bool, seed: int, data: st.DataObject
) -> None:
    images = pictures(*shape)
    before = images.clone()
    draws = crop_flip(len(images), padding, flip, seed)
    assert 0 <= int(draws.rows.min()) <= int(draws.rows.max()) <= 2 * padding
    assert 0 <= int(draws.columns.min()) <= int(draws.columns.max()) <= 2 * padding
    indices = torch.tensor(data.draw(st.lists(st.integers(0, len(images) - 1), max_size=12)))
    indices = indices.to(torch.int64)
    changed = draws(images[indices], indices)
    assert (changed.dtype, changed.shape) == (torch.uint8, (len(indices), *shape[1:]))
    for got, index in zip(changed, indices.tolist(), strict=True):
        assert np.array_equal(got.numpy(), plainly(images[index].numpy(), draws, index))
    assert torch.equal(images, before)


def test_without_padding_and_flip_it_is_the_identity() -> None:
    images, indices = pictures(20), torch.arange(20)
    assert torch.equal(crop_flip(20, 0, False)(images, indices), images)
    assert not torch.equal(crop_flip(20, 0, True)(images, indices), images)
    assert not torch.equal(crop_flip(20, 1, False)(images, indices), images)


def test_shifts_are_uniform_and_half_are_mirrored() -> None:
    draws = crop_flip(90_000, padding=4)
    for corners in (draws.rows, draws.columns):
        counts = torch.bincount(corners)
        assert len(counts) == 9
        assert (counts - 10_000).abs().max() < 500  # five standard deviations
    assert abs(int(draws.mirrored.sum()) - 45_000) < 750
    together = torch.stack([draws.rows, draws.columns, draws.mirrored.long()]).double()
    off_diagonal = torch.corrcoef(together) - torch.eye(3)
    assert off_diagonal.abs().max() < 0.02


# Whose draws they are


def whole(augment: Augmentation, images: Tensor, order: Tensor, batch_size: int) -> Tensor:
    """Change all images in batches, and bring them back into their own order."""
    changed = [augment(images[indices], indices) for indices in order.split(batch_size)]
    return torch.cat(changed)[order.argsort()]


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(15)), batch_size=st.integers(1, 15))
def test_the_draws_belong_to_the_images(order: list[int], batch_size: int) -> None:
    images = pictures(15)
    expected = whole(crop_flip(15), images, torch.arange(15), 15)
    torch.rand(3)  # what else draws does not matter
    assert torch.equal(whole(crop_flip(15), images, torch.tensor(order), batch_size), expected)


def test_epochs_and_seeds_draw_anew_and_repeat() -> None:
    streams = [(seed, epoch) for seed in range(4) for epoch in range(4)]
    digests = [crop_flip(50, seed=seed, epoch=epoch).digest() for seed, epoch in streams]
    assert len(set(digests)) == len(streams)
    assert [crop_flip(50, seed=seed, epoch=epoch).digest() for seed, epoch in streams] == digests
    # What an option changes is not what the others draw.
    assert torch.equal(crop_flip(50).rows, crop_flip(50, flip=False).rows)


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    crop_flip(50)
    assert torch.equal(torch.get_rng_state(), state)


def test_none_draws_nothing() -> None:
    assert augmentation(AUGMENTATIONS.resolve("none"), 0, 0, 10, CPU) is None
    default = TrainingSettings.model_validate({"epochs": 1}).augmentation
    assert default == AUGMENTATIONS.resolve("none")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "crop_flip", "padding": -1}, "padding = -1"),
        ({"name": "crop_flip", "padding": 17}, "padding = 17"),
        ({"name": "crop_flip", "pading": 1}, "did you mean 'padding'"),
        ("crop", "did you mean 'crop_flip'"),
    ],
)
def test_what_is_refused(table: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AUGMENTATIONS.resolve(table)


# In a trial


def entered(folder: Path, activation: str, augmented: Any, **kw: Any) -> list[Tensor]:
    """The images of every training batch as the network sees them."""
    trial = begin(
        trial_settings(activation=activation, epochs=2, augmentation=augmented, **kw), folder
    )
    seen: list[Tensor] = []

    def look(module: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        if module.training:
            seen.append(inputs[0].clone())

    trial.network.register_forward_pre_hook(look)
    list(trial.train(never))
    return seen


def test_a_trial_trains_on_changed_images_and_is_measured_on_whole_ones(tmp_path: Path) -> None:
    table = {"name": "crop_flip", "padding": 3}
    trial = begin(trial_settings(epochs=2, augmentation=table), tmp_path / "trial")
    measured: list[Tensor] = []

    def look(module: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        if not module.training:
            measured.append(inputs[0].clone())

    trial.network.register_forward_pre_hook(look)
    list(trial.train(never))
    data = trial.dataset
    untouched, _ = data.batch("test", torch.arange(data.size("test")))
    assert torch.equal(torch.cat(measured[:2]), untouched)

    seen = torch.cat(entered(tmp_path / "again", "adarelu", table)).view(2, 56, 1, 32, 32)
    for epoch in range(2):
        draws = CropFlip(generator(5, "augmentation", epoch), 56, CPU, 3, True)
        order = batch_order(5, epoch, 56).tolist()
        images = data.images["train"].numpy()
        plain = np.stack([plainly(images[index], draws, index) for index in order])
        expected = (torch.from_numpy(plain).float() - data.mean) / data.deviation
        torch.testing.assert_close(seen[epoch], expected)


def test_trials_that_differ_in_the_activation_see_the_same_changes(tmp_path: Path) -> None:
    table = {"name": "crop_flip"}
    activations = ("relu", "prelu", "adarelu", "tests.own_parts:Drawing")
    seen = [entered(tmp_path / name, name, table) for name in activations]
    for others in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], others, strict=True))
    other_seed = entered(tmp_path / "6", "relu", table, seed=6)
    assert not any(torch.equal(a, b) for a, b in zip(seen[0], other_seed, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_changes_do_not_wait_for_the_device() -> None:
    images, indices = pictures(6), torch.tensor([4, 1, 1])
    expected = crop_flip(6)(images[indices], indices)
    component = AUGMENTATIONS.resolve("crop_flip")
    augment = augmentation(component, 0, 0, 6, torch.device("cuda"))
    assert augment is not None
    on_device, there = images[indices].cuda(), indices.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        changed = augment(on_device, there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(changed.cpu(), expected)
