"""Settings of TRL's trainers."""

from pathlib import Path

import pytest

from meta_reward_core.training.trainer_factories import OneDeviceDpoConfig, OneDeviceSftConfig


@pytest.mark.parametrize("config", [OneDeviceDpoConfig, OneDeviceSftConfig])
def test_a_process_that_sees_eight_gpus_keeps_the_batch_size_of_the_recipe(
    config: type[OneDeviceDpoConfig | OneDeviceSftConfig], tmp_path: Path
) -> None:
    settings = config(output_dir=str(tmp_path), per_device_train_batch_size=4, use_cpu=True)
    assert settings.n_gpu == 0
    settings._n_gpu = 8  # what the Trainer counts where eight are visible
    assert settings.n_gpu == 1
    assert settings.train_batch_size == 4
