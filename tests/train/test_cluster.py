"""TF_CONFIG: read as TensorFlow reads it, refused where it makes no sense."""

import json
import signal
import sys
from pathlib import Path

import pytest

from clotseg.errors import ConfigError
from clotseg.train.cluster import Place, find_place
from clotseg.train.launch import launch, tf_config


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


# As workers that were asked to stop: one ends at once, the first writes for a while.
ENDS_WHEN_ASKED = """
import json, os, signal, sys, time
first = json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 0

def stop(number, frame):
    if first:
        time.sleep(1.5)
        open(sys.argv[1], "w").write("written")
    os._exit(143)

signal.signal(signal.SIGTERM, stop)
if first:
    os.kill(os.getppid(), signal.SIGTERM)
time.sleep(60)
"""


def test_a_worker_that_writes_its_state_when_asked_to_stop_is_not_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clotseg.train.launch.GRACE_S", 0.3)
    before = signal.getsignal(signal.SIGTERM)
    code = launch([sys.executable, "-c", ENDS_WHEN_ASKED, str(tmp_path / "state")], 2)
    assert code == 143
    assert (tmp_path / "state").read_text() == "written"
    assert signal.getsignal(signal.SIGTERM) == before


SECOND_FAILS = """
import json, os, time
time.sleep(60 * (1 - json.loads(os.environ["TF_CONFIG"])["task"]["index"]))
raise SystemExit(7)
"""


def test_where_one_fails_the_others_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clotseg.train.launch.GRACE_S", 0.3)
    assert launch([sys.executable, "-c", SECOND_FAILS], 2) == 7
