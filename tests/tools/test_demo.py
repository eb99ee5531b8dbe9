"""The parts of the demo that can be wrong without a training showing it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tools.demo import __main__ as demo
from tools.demo import configs, data, evaluation, report
from tools.demo.trainer import Run
from tools.demo.unet import UNet

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", data.FIELDS)
def test_fields_hold_glands_and_background(name: str) -> None:
    """Each field has its image and a truth with a fair share of both."""
    field = data.field(name)
    assert field.raw.shape == field.truth.shape
    assert 0.2 < field.truth.mean() < 0.8


def test_images_come_from_the_wheel() -> None:
    """The image is read without pooch, scikit-image's way to download one."""
    data.field("upper")
    assert "pooch" not in sys.modules


def test_training_and_validation_share_no_pixel() -> None:
    """A network is scored on what it has not seen."""
    seen = np.zeros((512, 512), dtype=int)
    for region in data.FIELDS.values():
        seen[region] += 1
    assert seen.max() == 1


def test_truth_turns_with_its_image() -> None:
    """A crop and its truth are turned and mirrored alike."""
    truth = data.field("upper").truth
    field = data.Field("any", raw=truth.astype(np.float32), truth=truth)
    raws, truths = data.training_batch(field, size=8, edge=96, generator=np.random.default_rng(0))
    assert raws.shape == (8, 1, 96, 96)
    np.testing.assert_array_equal(raws, truths)


@pytest.mark.parametrize("name", data.FIELDS)
def test_network_gives_one_logit_for_each_pixel(name: str) -> None:
    """Each field can be predicted in one piece."""
    image = torch.from_numpy(data.field(name).raw)[None, None]
    with torch.no_grad():
        assert UNet(2)(image).shape == image.shape


def test_training_depends_on_config_and_iteration_alone() -> None:
    """A run made anew repeats an iteration bit by bit: what a resumed training relies on."""
    config = configs.run_configs(160)[0]
    assert Run(config).train_iteration(3).loss == Run(config).train_iteration(3).loss


def test_perfect_and_empty_segmentations_get_the_extreme_scores() -> None:
    """The criteria agree on what is best; nothing found is no overlap."""
    truth = data.field("gland").truth
    judge = evaluation.EvaluationScores(("dice", "jaccard", "voi"))
    assert judge.evaluate(truth, truth) == pytest.approx([1.0, 1.0, 0.0])
    dice, jaccard, voi = judge.evaluate(np.zeros_like(truth), truth)
    assert (dice, jaccard) == (0.0, 0.0)
    assert voi > 0


def test_better_is_more_overlap_and_less_variation() -> None:
    """Each criterion has its own direction."""
    assert evaluation.is_better("dice", 0.9, than=0.8)
    assert evaluation.is_better("voi", 0.1, than=0.2)
    assert not evaluation.is_better("voi", 0.2, than=0.1)
    assert evaluation.is_better("voi", 9.0, than=None)


def test_each_demo_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    """A second demo beside the first does not touch it."""
    first, second = demo._new_folder(tmp_path / "out"), demo._new_folder(tmp_path / "out")
    assert (first.name, second.name) == ("001", "002")


@pytest.mark.parametrize("text", ["0", "-160", "100"])
def test_iterations_that_give_no_validations_are_refused(text: str) -> None:
    """The message says which numbers will do."""
    with pytest.raises(argparse.ArgumentTypeError, match="multiple of 160"):
        demo._iterations(text)


def test_a_curve_goes_from_its_least_to_its_greatest() -> None:
    """One character a value when there is room; a flat curve is drawn as well."""
    assert report._curve(np.array([0.0, 1.0, 0.5])) == "▁█▅"
    assert report._curve(np.array([2.0, 2.0])) == "▁▁"
