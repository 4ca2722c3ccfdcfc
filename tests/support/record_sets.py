"""Training sets with any entries, sound or not."""

from denseface.data.records import RecordWriter


def write_property(folder, num_classes, height, width):
    (folder / "property").write_text(f"{num_classes},{height},{width}\n")


def write_entries(folder, entries, num_classes, size):
    """Write a training set of square pictures from (key, labels, payload), whatever they say."""
    folder.mkdir(exist_ok=True)
    with RecordWriter(folder / "train.rec", folder / "train.idx") as writer:
        for entry in entries:
            writer.write(*entry)
    write_property(folder, num_classes, size, size)
