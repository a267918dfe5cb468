"""Runs a function in several processes of a gloo group."""

import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run(function, processes, *args):
    """function(rank, *args) in each process; the first failure is raised here with its traceback."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(_work, (function, processes, port, args), nprocs=processes)


def _work(rank, function, processes, port, args):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    function(rank, *args)
    dist.barrier()
    dist.destroy_process_group()
