"""``denseface launch``: train on several processes or machines."""

from __future__ import annotations

import argparse
import shlex

from denseface.cli.console import OK, print_line
from denseface.cli.options import add_example, positive
from denseface.core.errors import InputError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "launch",
        help="train with several workers, here or on several machines",
        description="Start a scheduler, servers and workers of MXNet's parameter server, each with the same command, "
        "on this machine or by ssh. Each line of output begins with the name of its process. When one fails, all are "
        "ended, and the error names it; Ctrl-C, SIGTERM and SIGHUP let the workers save and stop.",
    )
    parser.add_argument("--workers", type=positive, required=True, metavar="N", help="number of processes that train")
    parser.add_argument(
        "--servers", type=positive, default=1, metavar="M", help="number of processes that add gradients (default: 1)"
    )
    parser.add_argument("--hosts", metavar="FILE", help="machines for ssh, one per line (default: only this machine)")
    parser.add_argument("--root", metavar="ADDRESS", help="the first host's address for the others (default: its name)")
    parser.add_argument(
        "--port",
        type=positive,
        metavar="N",
        help="the scheduler's port, up to 65535 (default: a free one; with --hosts 9091)",
    )
    parser.add_argument(
        "--arrival-timeout",
        type=positive,
        metavar="SECONDS",
        help="how long to wait until all processes have found each other (default: 300)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands instead of running them")
    parser.add_argument("training", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the command of each process")
    add_example(
        parser,
        "denseface launch --workers 2 -- python train.py --network d15 --dataset orl --kvstore dist_sync",
        "denseface launch --workers 8 --servers 8 --hosts hosts.txt -- python train.py --kvstore dist_sync",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Start and watch the processes, or print their commands."""
    from denseface.distributed import launcher

    command = args.training[1:] if args.training[:1] == ["--"] else args.training
    if not command:
        raise InputError("launch: give what to run after --, as in: -- python train.py --kvstore dist_sync")
    hosts = launcher.read_hosts(args.hosts) if args.hosts else []
    processes = launcher.plan(command, args.workers, args.servers, hosts, args.arrival_timeout, args.root, args.port)
    if args.dry_run:
        for process in processes:
            print_line(shlex.join(process.arguments()))
        return OK
    return launcher.run(processes)
