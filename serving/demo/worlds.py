"""The worlds of the demo by the name of their task."""

from collections.abc import Callable, Mapping

from protos import config
from serving.demo.environment import DigitsWorld
from serving.demo.upload import UploadWorld
from serving.demo.world import World
from serving.errors import DemoError

__all__ = ["WORLDS", "world_of"]

WORLDS: Mapping[str, Callable[[], World]] = {"digits": DigitsWorld.load, "video_upload": UploadWorld}


def world_of(task: str) -> World:
    """The world of a task. Raises DemoError with the nearest name."""
    if task not in WORLDS:
        raise DemoError(f"--task: {task!r} has no world to run in; {config.nearest(task, WORLDS)}")
    return WORLDS[task]()
