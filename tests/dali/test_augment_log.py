"""The log: what was drawn for a sample, written as JSON, replays to the very pixels of the training batch."""

import json

import numpy as np
import pytest

from clotseg.config import AugmentConfig
from clotseg.dali import replay
from clotseg.dali.feed import Feed
from clotseg.dali.order import plan_training
from tests.dali.conftest import NOTHING, Recorded, settings

EVERYTHING = AugmentConfig(
    **{name: 1.0 if value == 0.0 else value for name, value in NOTHING.items()},
    warp=0.5,
    elastic=0.5,
    misregistration=0.9,
    noise_gaussian=0.5,
    noise_poisson=0.5,
    drop_modality=0.2,
)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("augment", [AugmentConfig(), EVERYTHING], ids=["as by default", "everything"])
def test_a_logged_sample_replays_to_the_pixels_it_was_trained_on(
    recorded: Recorded, augment: AugmentConfig, replicas: int
) -> None:
    plan = plan_training(recorded.cohort, samples=24, batch_size=8, replicas=replicas, seed=3, epoch=2)
    feed = Feed(
        recorded.cohort, plan, settings(replicas), augment=augment, seed=3, epoch=2, log_parameters=True
    )
    batches = [batch for step in feed for batch in step]
    assert sum(len(batch.uids) for batch in batches) == 24
    for batch in batches:
        logged = json.loads(json.dumps(batch.parameters))
        images, masks = replay(
            [recorded.images[uid] for uid in batch.uids],
            [recorded.masks[uid] for uid in batch.uids],
            logged,
        )
        replayed = Recorded(recorded.cohort, images, masks).padded(np.arange(len(images)))
        np.testing.assert_array_equal(np.rint(batch.images.numpy() * 255), np.rint(replayed[0] * 255))
        np.testing.assert_array_equal(batch.masks.numpy(), replayed[1])
        assert any(
            (new.shape != old.shape) or (new != old).any()
            for new, old in zip(images, (recorded.images[uid] for uid in batch.uids), strict=True)
        )


def test_a_feed_that_does_not_log_gives_no_parameters_and_the_same_pixels(recorded: Recorded) -> None:
    plan = plan_training(recorded.cohort, samples=8, batch_size=8, replicas=1, seed=3, epoch=2)
    loud, quiet = (
        next(
            iter(Feed(recorded.cohort, plan, settings(), augment=AugmentConfig(), seed=3, log_parameters=log))
        )[0]
        for log in (True, False)
    )
    assert len(loud.parameters) == 8
    assert quiet.parameters == []
    np.testing.assert_array_equal(loud.images.numpy(), quiet.images.numpy())
