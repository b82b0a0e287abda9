"""Processes that stay up for the whole test session and run functions as ranks of one world."""

import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

# Imported once, by a process that has no threads and that the ranks are forks of.
PRELOAD = ["lightning_ssl.cli", "torchvision", "torch.utils.tensorboard", "sklearn.datasets"]


def _serve(rank: int, world_size: int, port: int, pipe: Any) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        GROUP_RANK="0",
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        TORCHELASTIC_RUN_ID="tests",  # tells Lightning that the processes are already there
    )
    while (job := pipe.recv()) is not None:
        function, args, folder = job
        os.chdir(folder)
        try:
            pipe.send((True, function(*args)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))


class Ranks:
    """A world of gloo processes on this machine."""

    def __init__(self, world_size: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self.pipes, self.processes = [], []
        for rank in range(world_size):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, world_size, port, there))
            process.start()
            self.pipes.append(here)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Call a function on every rank and return what each returned."""
        for pipe in self.pipes:
            pipe.send((function, args, os.getcwd()))
        answers = [pipe.recv() for pipe in self.pipes]
        failed = [text for ok, text in answers if not ok]
        assert not failed, failed[0]
        return [value for _, value in answers]

    def stop(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(timeout=10)
            process.kill()
