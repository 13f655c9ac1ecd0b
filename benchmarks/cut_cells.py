"""Single blood cells cut out of BCCD's photos by their boxes: a folder per class, as people have their own photos.

    NASFORGE_DATA=... python benchmarks/cut_cells.py cells --each 200
    NASFORGE_DATA=... python benchmarks/cut_cells.py cells --picture docs/images/cells.jpg

Writes cells/RBC, cells/WBC, cells/Platelets and cells/labels.csv, which names the photo that a cell was cut out of.
BCCD (https://github.com/Shenggan/BCCD_Dataset) is under the MIT licence.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

MARGIN = 1.2
"""Side of the square that is cut out, relative to the longer side of the box."""
SMALLEST = 12
"""Boxes with a shorter side, in pixels, are left out; two of BCCD have no area."""
SIDES = ("xmin", "ymin", "xmax", "ymax")


def boxes(photos: Path) -> dict[str, list[tuple[str, tuple[int, int, int, int]]]]:
    """Class -> (photo, box in pixels) of every cell, in the order of the photos."""
    by_photo: dict[str, list[tuple[str, tuple[int, int, int, int]]]] = {}
    for file in sorted((photos / "Annotations").glob("*.xml")):
        for cell in ElementTree.parse(file).iter("object"):
            left, top, right, bottom = (int(cell.findtext(f"bndbox/{side}", "0")) for side in SIDES)
            if min(right - left, bottom - top) >= SMALLEST:
                by_photo.setdefault(cell.findtext("name", ""), []).append((file.stem, (left, top, right, bottom)))
    return by_photo


def square(box: tuple[int, int, int, int], width: int, height: int) -> tuple[int, int, int, int]:
    """The square around a box with its margin, moved into the photo."""
    left, top, right, bottom = box
    side = min(round(MARGIN * max(right - left, bottom - top)), width, height)
    x = min(max((left + right - side) // 2, 0), width - side)
    y = min(max((top + bottom - side) // 2, 0), height - side)
    return x, y, x + side, y + side


def cut(photos: Path, out: Path, each: int, seed: int) -> None:
    """Write at most `each` cells of every class."""
    rows = []
    for name, cells in sorted(boxes(photos).items()):
        (out / name).mkdir(parents=True, exist_ok=True)
        chosen = random.Random(f"{seed}/{name}").sample(cells, min(each, len(cells)))
        for number, (photo, box) in enumerate(sorted(chosen)):
            with Image.open(photos / "JPEGImages" / f"{photo}.jpg") as image:
                file = out / name / f"{photo}-{number}.png"
                image.convert("RGB").crop(square(box, *image.size)).save(file)
            rows.append((f"{name}/{file.name}", name, photo))
    with (out / "labels.csv").open("w", newline="") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("image", "label", "photo"))
        writer.writerows(rows)
    print(f"{len(rows)} cells in {out}/")


def picture(cells: Path, file: Path, columns: int = 10, edge: int = 64) -> None:
    """Write some cells of every class as one picture, a row per class."""
    folders = sorted(folder for folder in cells.iterdir() if folder.is_dir())
    sheet = Image.new("RGB", (columns * edge, len(folders) * edge))
    for row, folder in enumerate(folders):
        for column, cell in enumerate(sorted(folder.glob("*.png"))[:columns]):
            with Image.open(cell) as image:
                sheet.paste(image.resize((edge, edge)), (column * edge, row * edge))
    sheet.save(file, quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--each", type=int, default=200, help="cells of every class, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="also write a picture of some cells")
    options = parser.parse_args()
    cut(Path(os.environ["NASFORGE_DATA"]) / "bccd", options.out, options.each, options.seed)
    if options.picture:
        picture(options.out, options.picture)


if __name__ == "__main__":
    main()
