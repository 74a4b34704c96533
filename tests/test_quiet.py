"""Loading TensorFlow: the switches that it reads as it starts."""

import os
import platform
import subprocess
import sys

import pytest

ASK = """
from clotseg.quiet import load_tensorflow
load_tensorflow()
from tensorflow.python.util import _pywrap_util_port
print(_pywrap_util_port.IsMklEnabled())
"""

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN's switch is for x86 processors"
)


@pytest.mark.parametrize(("said", "expected"), [(None, "True"), ("0", "False"), ("1", "True")])
def test_convolutions_are_those_of_onednn_unless_the_environment_says_otherwise(
    said: str | None, expected: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    if said is not None:
        environment["TF_ENABLE_ONEDNN_OPTS"] = said
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected
