"""The child's own side of the pipes, without an agent around it."""

import io
import os
import subprocess
import sys

import pytest

from mhfl_mq.errors import PeerFault
from mhfl_mq.train.frames import MAX_FRAME, check_length, read_frame, to_frame, write_frame


def serve(task: str, requests: bytes) -> tuple[list[object], int]:
    """The child's replies to these bytes on its standard input, and its exit code."""
    command = [sys.executable, "-m", "mhfl_mq.train.worker", "--task", task, "--parent", str(os.getpid())]
    done = subprocess.run(command, input=requests, capture_output=True, check=False)
    pipe, replies = io.BytesIO(done.stdout), []
    while (reply := read_frame(pipe)) is not None:
        replies.append(reply)
    return replies, done.returncode


def test_the_child_answers_in_order_and_ends_with_its_input(toy: str) -> None:
    requests = to_frame({"id": 1, "job": "hello", "arguments": {}}) + to_frame({"id": 2, "job": "fly", "arguments": {}})
    replies, code = serve(toy, requests)
    assert code == 0
    first, second = replies
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert (first["id"], first["answer"]["task"]) == (1, "toy")
    assert (second["id"], second["error"]["kind"]) == (2, "LocalMisuse")


def test_the_child_leaves_at_once_when_its_parent_is_gone_already(toy: str) -> None:
    command = [sys.executable, "-m", "mhfl_mq.train.worker", "--task", toy, "--parent", "1"]
    assert subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, check=False).returncode == 0


def test_garbage_on_standard_input_ends_the_child(toy: str) -> None:
    replies, code = serve(toy, b"\xff" * 64)
    assert replies == []
    assert code != 0


def test_frames_come_back_as_they_went() -> None:
    pipe = io.BytesIO()
    write_frame(pipe, {"a": [1, 2.5, "x", None]})
    write_frame(pipe, "next")
    pipe.seek(0)
    assert read_frame(pipe) == {"a": [1, 2.5, "x", None]}
    assert read_frame(pipe) == "next"
    assert read_frame(pipe) is None


def test_a_pipe_that_ends_within_a_frame_has_ended() -> None:
    assert read_frame(io.BytesIO(to_frame("whole")[:-1])) is None


@pytest.mark.parametrize("length", [0, MAX_FRAME + 1, 2**32 - 1])
def test_a_length_that_no_frame_has_is_a_fault(length: int) -> None:
    with pytest.raises(PeerFault, match="training pipe"):
        check_length(length.to_bytes(4, "big"))
