"""Results as a file for programs and a page for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def peak(precision: str) -> str:
    """Return the name of the limit of arithmetic in a precision."""
    return f"{precision} matrix product"


def write(folder: Path, results: Mapping) -> Path:
    """Write ``results.json`` and ``results.md``; return the path of the page.

    Parameters
    ----------
    folder : Path
        Created if it does not exist.
    results : dict
        ``command``, ``machine``, ``limits`` and ``races``; each race has a ``title``, what is ``done`` in a run (count
        and unit), ``rounds``, ``macs`` of a run or 0, and ``rows`` as :func:`bench.race.race` returns them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    page = folder / "results.md"
    page.write_text(markdown(results), encoding="utf-8")
    return page


def markdown(results: Mapping) -> str:
    """Return the page."""
    machine = results["machine"]
    packages = ", ".join(f"{name} {version or 'not installed'}" for name, version in machine["packages"].items())
    lines = [
        "# Measurements",
        "",
        f"`{results['command']}`",
        "",
        f"{machine['cores']} cores, {machine['processor']} ({' '.join(machine['instructions'])}), {machine['memory']}; "
        f"load before the run {machine['load before']:.1f}; Python {machine['python']}, {packages}.",
        "",
        "Each contender has its own process; they compute in turns, one at a time. Seconds are medians. Outputs were",
        "compared with the first contender's before anything was timed: largest difference, relative to the largest",
        "value, and least cosine. The spread is the range of the middle half of the times, relative to the median.",
        "Limits are the best that was measured, before the first and after the last race.",
        "",
    ]
    for name, (amount, unit) in results["limits"].items():
        lines.append(f"- {name}: {amount:.0f} {unit}")
    for race in results["races"]:
        lines += ["", *_table(race, results["limits"])]
    return "\n".join(lines) + "\n"


def _table(race, limits):
    count, unit = race["done"]
    first = race["rows"][0]["seconds"]
    yield from [f"## {race['title']}", "", f"{race['rounds']} rounds.", ""]
    has_share = bool(race["macs"])
    share = " of the peak of its precision |" if has_share else ""
    yield f"| contender | ms | spread | {unit}/s | times the first |{share} difference | cosine | peak memory, MB |"
    yield f"|---|--:|--:|--:|--:|{'--:|' if has_share else ''}--:|--:|--:|"
    for row in race["rows"]:
        limit = limits.get(peak(row["precision"]), (0, ""))[0] * 1e9
        reached = f"{2 * race['macs'] / row['seconds'] / limit:.0%}" if limit else "unknown"
        share = f" {reached} |" if has_share else ""
        yield (
            f"| {row['name']} | {row['seconds'] * 1e3:.1f} | {row['spread']:.0%} | {count / row['seconds']:.1f} | "
            f"{first / row['seconds']:.2f} |{share} {row['difference']:.0e} | {row['cosine']:.5f} | "
            f"{row['peak_memory'] / 1e6:.0f} |"
        )
    for precision in ("float32", "bfloat16"):
        peer, ours = (_fastest(race["rows"], name, precision) for name in ("PyTorch", "denseface"))
        if peer and ours:
            ratio = peer["seconds"] / ours["seconds"]
            yield ""
            yield f"Fastest in {precision}: {peer['name']}; {ours['name']}, {ratio:.2f} times as fast."


def _fastest(rows, name, precision):
    """Return the fastest contender of a library."""
    own = [row for row in rows if row["name"].startswith(name) and row["precision"] == precision]
    return min(own, key=lambda row: row["seconds"], default=None)
