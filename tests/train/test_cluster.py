"""TF_CONFIG: read as TensorFlow reads it, refused where it makes no sense."""

import json

import pytest

from clotseg.errors import ConfigError
from clotseg.train.cluster import Place, find_place
from clotseg.train.launch import tf_config


@pytest.mark.parametrize(
    ("cluster", "task", "place"),
    [
        ({"worker": ["a:1"]}, ("worker", 0), Place(worker=0, workers=1)),
        ({"worker": ["a:1", "b:1"]}, ("worker", 1), Place(worker=1, workers=2)),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, ("chief", 0), Place(worker=0, workers=3)),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, ("worker", 1), Place(worker=2, workers=3)),
    ],
)
def test_a_process_knows_its_place(
    monkeypatch: pytest.MonkeyPatch, cluster: dict[str, list[str]], task: tuple[str, int], place: Place
) -> None:
    facts = {"cluster": cluster, "task": {"type": task[0], "index": task[1]}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(facts))
    assert find_place() == place


def test_without_tf_config_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert find_place() is None
    monkeypatch.setenv("TF_CONFIG", "")
    assert find_place() is None


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": -1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "evaluator", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": "first"}}',
    ],
)
def test_a_tf_config_that_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ConfigError, match="TF_CONFIG"):
        find_place()


def test_what_launch_sets_tensorflow_itself_can_read(
    monkeypatch: pytest.MonkeyPatch, one_cpu: object
) -> None:
    import tensorflow as tf

    monkeypatch.setenv("TF_CONFIG", tf_config(["localhost:1234", "localhost:1235"], 1))
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    assert (resolver.task_type, resolver.task_id) == ("worker", 1)
    assert resolver.cluster_spec().as_dict() == {"worker": ["localhost:1234", "localhost:1235"]}
    assert find_place() == Place(worker=1, workers=2)
