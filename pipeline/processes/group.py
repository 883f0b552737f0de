"""The processes that work on one run together: one alone, or the ranks of an accelerate launch.

Ranks claim chunks from a counter in the process group's store; rank 0 alone commits, between barriers. What
is done on disk is decided by rank 0 and broadcast, so that ranks never disagree about it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.errors import RatchetError, RecipeError
from pipeline.processes.pulse import WAITING, beat, long
from pipeline.store.lock import die_with_parent, is_child

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """One process alone."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Is this the process that commits?"""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for the others."""

    def share(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        return value

    def gather(self, value: T) -> list[T]:
        """Every rank's value, by rank, on every rank."""
        return [value]

    def claim(self, name: str, todo: Sequence[T]) -> Iterator[T]:
        """The items that this rank takes, each taken by one rank, in order."""
        yield from todo

    def together(self, act: Callable[[], Any]) -> Any:
        """Rank 0 acts; every rank gets what it returned, or raises what it raised."""
        if self.size == 1:
            return act()
        value: Any = None
        problem: tuple[type[RatchetError], str] | None = None
        if self.main:
            try:
                value = act()
            except RatchetError as raised:
                problem = (type(raised), str(raised))
        value, problem = self.share((value, problem))
        if problem is not None:
            raise problem[0](problem[1])
        return value


@dataclass(frozen=True)
class Ranks(Processes):
    """The ranks of a launch, over torch.distributed."""

    def barrier(self) -> None:
        import torch.distributed as dist

        long(WAITING)
        dist.barrier()
        beat()

    def share(self, value: T) -> T:
        import torch.distributed as dist

        box: list[Any] = [value]
        long(WAITING)
        dist.broadcast_object_list(box, src=0)
        beat()
        return box[0]

    def gather(self, value: T) -> list[T]:
        import torch.distributed as dist

        boxes: list[Any] = [None] * self.size
        long(WAITING)
        dist.all_gather_object(boxes, value)
        beat()
        return boxes

    def claim(self, name: str, todo: Sequence[T]) -> Iterator[T]:
        import torch.distributed as dist

        counter = dist.distributed_c10d._get_default_store()
        key = f"ratchet/claim/{name}/{self.share(os.urandom(8).hex())}"  # a fresh counter for each use
        while (place := counter.add(key, 1) - 1) < len(todo):
            yield todo[place]


CURE = "write distributed_type: MULTI_GPU and use_cpu: true, as recipes/launch/cpu2.yaml does"


def join() -> Processes:
    """The world that this process was started in.

    `PartialState(cpu=...)` comes first: without it every rank of a CPU box believes it is the only one.

    Raises:
        RecipeError: the launcher asked for several processes and started one.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    asked = os.environ.get("RATCHET_NUM_PROCESSES", "")
    if asked.isdigit() and int(asked) != size:
        raise RecipeError(f"the launch file asks for {asked} processes and {size} started; on CPU {CURE}")
    if size == 1 and started_alone():
        raise RecipeError(
            "accelerate launch was asked for several CPU processes and started one (--cpu and "
            f"distributed_type MULTI_CPU do that): {CURE}"
        )
    if size > 1 or is_child():
        die_with_parent()
    if size == 1:
        return Processes()
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    if state.num_processes != size:
        raise RecipeError(
            f"WORLD_SIZE is {size} but accelerate sees {state.num_processes}; every rank would believe "
            f"it is the main one: {CURE}"
        )
    return Ranks(state.process_index, state.num_processes)


def started_alone() -> bool:
    """Did accelerate's simple launcher start this one process for several? It then sets the address at which
    they would meet, and neither a rank nor a number of processes."""
    names = ("WORLD_SIZE", "RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    if not {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= os.environ.keys() or os.environ.keys() & set(
        names
    ):
        return False
    import psutil

    try:  # a job script may have set the address itself, for another purpose
        return "MASTER_PORT" not in psutil.Process(os.getppid()).environ()
    except psutil.Error:
        return True
