"""How images are fitted where nobody says: nearly square ones are squashed, and of all else training says why."""

from __future__ import annotations

import pytest
from test_any_image import trained, write_strips

from uflow_cli.config import ModelConfig
from uflow_cli.training.proportions import fit_of_sizes, with_fit

AUTO = ModelConfig()


@pytest.mark.parametrize("size", [(448, 448), (900, 900), (1024, 1024), (400, 590), (64, 96), (1600, 1600)], ids=str)
def test_nearly_square_images_near_the_input_size_are_squashed(size):
    assert fit_of_sizes(AUTO, [size] * 3) == (ModelConfig(fit="squash"), None)


def test_strips_get_a_rectangle_of_the_same_area():
    config, why = fit_of_sizes(AUTO, [(500, 1250), (510, 1250)])
    assert (config.fit, config.input_size) == ("squash", (288, 704))
    assert "500 x 1250" in why or "510 x 1250" in why
    assert "288 x 704" in why
    upright, _ = fit_of_sizes(AUTO, [(1250, 500)])
    assert upright.input_size == (704, 288)


def test_sizes_of_several_scales_keep_their_share_of_the_height():
    several = ModelConfig(scales="448:16 | 448:32+224:16 | 224:32")
    config, why = fit_of_sizes(several, [(500, 1250)])
    assert (config.input_size, config.scales) == ((256, 704), "256:16 | 256:32+128:16 | 128:32")
    assert "256 x 704" in why


def test_large_images_are_cut_into_tiles_and_mixed_ones_squashed():
    config, why = fit_of_sizes(AUTO, [(4000, 5000)])
    assert config.fit == "tile"
    assert "4000 x 5000" in why
    assert "--fit squash" in why
    config, why = fit_of_sizes(AUTO, [(300, 700), (700, 300)])
    assert config.fit == "squash"
    assert "--fit letterbox" in why


def test_what_is_given_stays_and_squares_alone_are_said():
    for given in (ModelConfig(fit="squash"), ModelConfig(fit="tile")):
        assert with_fit(given, []) == (given, None)
    exact = ModelConfig(paper_exact=True, tests="paper")
    assert fit_of_sizes(exact, [(100, 900)])[0].fit == "squash"
    config, why = fit_of_sizes(ModelConfig(extractor="ms-cait"), [(100, 900)])
    assert config.is_squashed
    assert "squares alone" in why
    assert fit_of_sizes(ModelConfig(input_size=(288, 704)), [(500, 1250)]) == (
        ModelConfig(input_size=(288, 704), fit="squash"), None,
    )  # fmt: skip


def test_training_says_what_it_chose_and_the_run_keeps_it(tmp_path):
    paths = write_strips(tmp_path / "good", range(10))
    run = trained(paths, tmp_path / "run", ModelConfig(input_size=96, precision="fp32"))
    assert (run.model.fit, run.model.input_size) == ("squash", (64, 160))
