"""Chains dealt out to processes of one thread each: for models too large to gain from being one."""

import io
import multiprocessing
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradiometer.errors import BadArgument, GradiometerError

if TYPE_CHECKING:
    from gradiometer.exploration.chains.chains import Chains

    Answer = tuple[list[dict[str, Tensor]], Chains]


def in_processes(count: int, chains: int, run: "Callable[[Sequence[int]], Chains]") -> "list[Answer]":
    """Run parts of the chains in processes of their own, and bring back what each found, in the order of the chains.

    Processes are forked, so that models, losses and data need not be written down; on Linux only.

    Args:
        count: How many, at most one a chain.
        chains: M.
        run: Of the positions of some chains, their result.

    Returns:
        Of each process, the states of its models, and the result without them.

    Raises:
        BadArgument: There is no fork here, or whatever a process refused.
        GradiometerError: Whatever ended a process on purpose.
        RuntimeError: A process ended otherwise; its traceback is in the message.
    """
    if not sys.platform.startswith("linux"):
        raise BadArgument(f"`processes` needs a fork that is safe, which {sys.platform} has not: leave it out.")
    context = multiprocessing.get_context("fork")
    running = []
    for part in torch.arange(chains).tensor_split(min(count, chains)):
        mine, its = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(run, part.tolist(), its))
        process.start()
        its.close()
        running.append((process, mine))
    answers = [_answer(mine) for _, mine in running]
    for process, _ in running:
        process.join()
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return [answer for answer in answers if not isinstance(answer, Exception)]


def _work(run: "Callable[[Sequence[int]], Chains]", places: Sequence[int], answer: Connection) -> None:
    """In the process: one thread, which is also all that torch may use after a fork."""
    torch.set_num_threads(1)
    try:
        found, buffer = run(places), io.BytesIO()
        torch.save([model.state_dict() for model in found.models], buffer)
        answer.send((buffer.getvalue(), replace(found, models=())))
    except GradiometerError as error:
        answer.send(error)
    except Exception:
        answer.send(RuntimeError(traceback.format_exc()))
    finally:
        answer.close()


def _answer(mine: Connection) -> "Answer | Exception":
    try:
        received = mine.recv()
    except EOFError:
        return RuntimeError("a process of the chains ended without an answer: it was killed, perhaps for memory.")
    if isinstance(received, Exception):
        return received
    saved, found = received
    return torch.load(io.BytesIO(saved), weights_only=True), found
