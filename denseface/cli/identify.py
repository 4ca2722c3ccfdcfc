"""``denseface identify``: who is in a picture, and how often is the answer right?"""

from __future__ import annotations

import argparse
import contextlib
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from denseface.cli.console import FAILED, OK, print_json, print_line, print_table, report_unreadable, report_warning
from denseface.cli.options import (
    add_example,
    add_face_options,
    add_far,
    add_fuse,
    add_model_options,
    add_no_flip,
    add_set,
    load_cropper,
    load_embedder,
    load_embedder_of,
    positive,
    rate,
)
from denseface.core.errors import InputError
from denseface.core.text import counted

if TYPE_CHECKING:
    from denseface.evaluation.identification import Searches
    from denseface.evaluation.intervals import Interval
    from denseface.evaluation.operating_points import OperatingPoint
    from denseface.galleries.gallery import Gallery


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "identify",
        help="measure how often people are found in a gallery",
        description="Search for every probe among the people of a gallery, and measure how often the right one is "
        "found: the fraction of searches within ranks (closed set), and the false negative identification rate (FNIR) "
        "at false positive identification rates (FPIR), with thresholds (open set), in the terms of NIST's FRTE 1:N. "
        "Each is a folder with one folder of pictures per person, which is embedded first, or what denseface embed "
        "made of one; folders below a person's are that person's, too. Probes of people who are not in the gallery "
        "count for FPIR, and so do those of --unknown.",
    )
    for name, explained in (("gallery", "the people enrolled"), ("probes", "the pictures to search for")):
        parser.add_argument(f"--{name}", required=True, metavar="DIR", help=f"{explained}: a folder, or a file .npz")
    parser.add_argument("--unknown", metavar="DIR", help="probes of people who are not enrolled, in the same form")
    add_fuse(
        parser,
        "score of a person with several pictures: of the mean of their embeddings (default), or the highest",
        default="mean",
    )
    parser.add_argument(
        "--rank", type=positive, default=1, metavar="R", help="FNIR counts mates up to this rank (default: 1)"
    )
    parser.add_argument("--fpir", type=rate, metavar="RATE", help="FNIR at this FPIR, instead of 1e-1, 1e-2 and 1e-3")
    add_far(parser, "error rates at the threshold that denseface verify has found for this false accept rate, too")
    add_set(parser)
    add_model_options(parser, required=False)
    add_face_options(parser)
    add_no_flip(parser)
    parser.add_argument("-o", "--out", metavar="FILE", help="draw CMC and DET curves: .png, .pdf or .svg")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    add_example(
        parser,
        "denseface identify --gallery enrolled/ --probes probes/ --unknown strangers/ --model models/new/model",
        "denseface identify --gallery million.npz --probes probes.npz -o cmc.png",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Search for all probes."""
    from denseface.core.progress_bar import ProgressBar
    from denseface.deciding.thresholds import find_threshold
    from denseface.report.plotting import check_drawable, save_figure
    from denseface.verification.identification import identify

    if (args.far or args.set) and not args.model:
        raise InputError("needed for its thresholds", option="model")
    if args.out:
        check_drawable(args.out)
    with contextlib.ExitStack() as opened:
        unreadable: dict[str, str] = {}
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        gallery, probes, unknown = _open(args, folder, unreadable)
        total = len(probes) + (len(unknown) if unknown else 0)
        with ProgressBar(total=total, desc="searching", unit="probe", leave=False) as bar:
            searches = identify(gallery, probes, unknown, fusion=args.fuse, on_progress=bar.update)
    if searches.num_enrolled:
        report_warning(
            f"{counted(searches.num_enrolled, 'probe')} left out, whose embeddings are in the gallery: they would find "
            "themselves"
        )
    if not len(searches.ranks) and not searches.num_enrolled:
        report_warning(
            f"no probe's person is enrolled: the folders in {args.probes} have other names than those in {args.gallery}"
        )
    open_set = searches.open_set(args.rank)
    points = _points(open_set, len(searches.top_scores), args)
    threshold = (
        find_threshold(load_embedder_of(gallery, args.model), args.set, args.far) if args.far or args.set else None
    )
    if args.out:
        from denseface.report.searches import draw_searches

        save_figure(draw_searches(searches, open_set), args.out)
    if args.json:
        print_json(_content(searches, points, threshold, args))
    else:
        print_line(f"enrolled: {searches.num_people} people with {searches.num_pictures} pictures")
        print_table(_rows(searches, points, threshold, args))
    return FAILED if report_unreadable(unreadable) else OK


def _open(
    args: argparse.Namespace, folder: Path, unreadable: dict[str, str]
) -> tuple[Gallery, Gallery, Gallery | None]:
    """Open the three files of embeddings; folders are embedded into files in a folder for the time being.

    Folders in them that cannot be read are added to ``unreadable``.
    """
    from denseface.core.progress_bar import ProgressBar
    from denseface.data.faces import require_landmarks
    from denseface.data.sources import Sources
    from denseface.galleries.bulk import embed_all
    from denseface.galleries.gallery import Gallery

    paths = {name: getattr(args, name) for name in ("gallery", "probes", "unknown") if getattr(args, name)}
    ready = {name: Gallery(path) for name, path in paths.items() if path.endswith(".npz")}
    if len(ready) < len(paths):
        if not args.model:
            name = next(name for name in paths if name not in ready)
            raise InputError(f"needed to embed {paths[name]}; or name a file .npz", option="model")
        embedder = load_embedder(args, flip=not args.no_flip, crop=load_cropper(args))
        with contextlib.ExitStack() as opened:
            folders = {name: opened.enter_context(Sources([path])) for name, path in paths.items() if name not in ready}
            for sources in folders.values():  # before any of them is embedded
                require_landmarks(embedder.crop, sources)
            for name, sources in folders.items():
                out = folder / f"{name}.npz"
                with ProgressBar(total=len(sources), desc=name, unit="picture", leave=False) as bar:
                    try:
                        embed_all(embedder, sources, out, on_progress=bar.update)
                    except InputError as error:
                        raise InputError(str(error).replace(str(out), paths[name])) from error
                unreadable.update(sources.unreadable)
                ready[name] = Gallery(out)
                ready[name].path = Path(paths[name])  # for messages: nobody knows the file
    return ready["gallery"], ready["probes"], ready.get("unknown")


def _ranks(searches: Searches) -> list[int]:
    from denseface.evaluation.identification import RANKS

    return [rank for rank in RANKS if rank <= searches.num_people]


def _points(open_set, count, args):
    """Return the thresholds at the rates wanted; refuse one that there are too few searches for."""
    if args.fpir and count * args.fpir < 1 - 1e-9:
        needed = math.ceil(1 / args.fpir - 1e-9)
        raise InputError(
            f"{args.fpir:g} needs {needed:,} searches for people who are not enrolled, and there are {count:,}",
            option="fpir",
        )
    if open_set is None:
        return {}
    return open_set.points_at([args.fpir]) if args.fpir else open_set.points


def _rows(searches, points, threshold, args):
    rows = [("", "", "95 % interval", "threshold", "its FPIR"), ("mated searches", str(len(searches.ranks)))]
    for rank in _ranks(searches):
        found = searches.hit_rate(rank)
        if found:
            rows.append((f"found at rank {rank}", f"{found.value:.4f}", _interval(found.interval)))
    rows.append(("other searches", str(len(searches.top_scores))))
    for fpir, point in points.items():
        fnir, at, of_fpir = f"{1 - point.tar:.4f}", f"{point.threshold:.4f}", _interval(point.fmr_interval)
        rows.append((f"FNIR (rank {args.rank}) at FPIR {fpir:g}", fnir, _interval(_missed(point)), at, of_fpir))
    if threshold:
        title, at = f"at FAR {threshold.far:g} on {threshold.name}", f"{threshold.value:.4f}"
        for name, rate in zip(("FNIR", "FPIR"), searches.rates_at(threshold.value, args.rank)):
            if rate:
                rows.append((f"{name} {title}", f"{rate.value:.4f}", _interval(rate.interval), at))
    return rows


def _missed(point: OperatingPoint) -> Interval:
    """Return the interval of FNIR, which is 1 - TAR."""
    low, high = point.tar_interval
    return point.tar_interval._replace(low=1 - high, high=1 - low)


def _content(searches, points, threshold, args):
    content = {
        "people": searches.num_people,
        "pictures": searches.num_pictures,
        "fuse": args.fuse,
        "mated": len(searches.ranks),
        "others": len(searches.top_scores),
        "enrolled_probes": searches.num_enrolled,
        "ranks": {str(rank): searches.hit_rate(rank) for rank in _ranks(searches)},
        "rank": args.rank,
        "fnir": {
            f"{fpir:g}": {
                "threshold": point.threshold,
                "fnir": 1 - point.tar,
                "interval": _missed(point),
                "fpir": point.fmr,
                "fpir_interval": point.fmr_interval,
            }
            for fpir, point in points.items()
        },
    }
    if threshold:
        at = searches.rates_at(threshold.value, args.rank)
        content["at_far"] = {"far": threshold.far, "threshold": threshold.value, "threshold_of": threshold.name}
        content["at_far"].update(fnir=at.fnir, fpir=at.fpir)
    return content


def _interval(interval: Interval) -> str:
    return f"{interval.low:.4f}-{interval.high:.4f}"
