"""core.pack and training.embedded.pack: the shipped gallery is whole, credited and small."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import WeightsError
from core.pack import PACK_FOLDER, PackPicture, pictogram, pictograms, read_pack
from training.embedded.pack import Entry, clean_keywords, clean_name, is_wanted, slug, write_zip


@pytest.fixture(scope="module")
def pack() -> list[PackPicture]:
    return list(read_pack())


def test_there_are_enough_pictures(pack: list[PackPicture]) -> None:
    assert sum(picture.album == "pictograms" for picture in pack) >= 1000
    assert sum(picture.album == "photographs" for picture in pack) >= 20


def test_ids_are_unique_and_fit_into_addresses(pack: list[PackPicture]) -> None:
    ids = [picture.id for picture in pack]
    assert len(set(ids)) == len(ids)
    assert all(picture_id == slug(picture_id) for picture_id in ids)


def test_every_picture_has_words_and_a_credit(pack: list[PackPicture]) -> None:
    for picture in pack:
        assert picture.name and picture.caption and picture.group, picture.id
        assert any(
            word in picture.credit
            for word in ("MIT", "CC0", "CC BY", "BSD", "public domain", "no known copyright")
        ), picture.id


def test_names_are_plain_words(pack: list[PackPicture]) -> None:
    for picture in pack:
        assert not set(picture.name) & set(":“”_"), picture.name
        assert all(len(keyword) > 1 for keyword in picture.keywords), picture.id


def test_every_picture_opens_within_its_size(pack: list[PackPicture]) -> None:
    for picture in pack:
        most = 192 if picture.album == "pictograms" else 640
        image = picture.image()
        assert image.mode == "RGB"
        assert 16 <= min(image.size) and max(image.size) <= most, picture.id
        assert np.asarray(image).std() > 1, f"{picture.id} is blank"


def test_no_picture_carries_metadata(pack: list[PackPicture]) -> None:
    for picture in pack:
        assert not any(mark in picture.webp[:64] for mark in (b"EXIF", b"XMP ", b"ICCP")), (
            picture.id
        )


@pytest.mark.parametrize("file", sorted(PACK_FOLDER.glob("*.zip")), ids=lambda file: file.name)
def test_files_are_small_enough_for_a_space(file: Path) -> None:
    assert file.stat().st_size < 10_000_000


def test_a_pictogram_is_transparent_around_the_thing() -> None:
    apple = pictogram("pictogram-red-apple")
    assert apple.mode == "RGBA"
    assert apple.getpixel((0, 0))[3] == 0
    red, green, blue, alpha = apple.getpixel((apple.width // 2, apple.height // 2))
    assert alpha == 255 and red > 150 and red > 2 * green


def test_on_white_the_corner_is_white() -> None:
    apple = next(picture for picture in pictograms() if picture.id == "pictogram-red-apple")
    assert apple.image().getpixel((0, 0)) == (255, 255, 255)


def test_an_unknown_pictogram_is_the_callers_mistake() -> None:
    with pytest.raises(KeyError):
        pictogram("pictogram-unheard-of")


def test_one_album_can_be_read_alone(pack: list[PackPicture]) -> None:
    alone = list(read_pack("photographs"))
    assert alone == [picture for picture in pack if picture.album == "photographs"]


def test_a_missing_or_damaged_pack_is_reported(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="Restore core/embedded"):
        list(read_pack("pictograms", folder=tmp_path))
    (tmp_path / "pictograms.zip").write_bytes(b"not a zip")
    with pytest.raises(WeightsError, match="Restore core/embedded"):
        list(read_pack("pictograms", folder=tmp_path))


def small_entry(name: str) -> Entry:
    file = Path(__file__)
    return Entry(
        id=f"pictogram-{name}",
        name=name,
        caption=name,
        keywords=["word"],
        group="objects",
        credit="nobody, CC0",
        webp=file.name.encode(),
    )


def test_equal_entries_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one.zip", "two.zip"):
        write_zip(tmp_path / name, [small_entry("a"), small_entry("b")])
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == ["index.json", "pictogram-a.webp", "pictogram-b.webp"]


@pytest.mark.parametrize(
    ("code", "category", "subcategory", "name", "wanted"),
    [
        ("1F34E", "Food & Drink", "food-fruit", "red apple", True),
        ("1F1E9-1F1EA", "Flags", "country-flag", "flag: Germany", False),
        ("1F3FB", "Component", "skin-tone", "light skin tone", False),
        ("1F550", "Travel & Places", "time", "one o'clock", False),
        ("231A", "Travel & Places", "time", "watch", True),
        ("1F3C3-200D-2640-FE0F", "People & Body", "person-activity", "woman running", False),
        ("1F3C3", "People & Body", "person-activity", "person running", True),
        ("1F468-200D-1F692", "People & Body", "person-role", "man firefighter", True),
        ("1F468-200D-1F467", "People & Body", "family", "family: man, girl", False),
        ("1F171-FE0F", "Symbols", "alphanum", "B button (blood type)", False),
        ("269B-FE0F", "Symbols", "religion", "atom symbol", True),
    ],
)
def test_real_things_are_wanted_once(
    code: str, category: str, subcategory: str, name: str, wanted: bool
) -> None:
    record = {"unified": code, "category": category, "subcategory": subcategory}
    assert is_wanted(record, name=name) is wanted


@pytest.mark.parametrize(
    ("unicode_name", "said"),
    [
        ("red apple", "red apple"),
        ("person: red hair", "person with red hair"),
        ("woman: bald", "bald woman"),
        ("person: beard", "person with a beard"),
        ("rescue worker’s helmet", "rescue worker's helmet"),
    ],
)
def test_names_are_said_as_people_say_them(unicode_name: str, said: str) -> None:
    assert clean_name(unicode_name) == said


def test_keywords_add_to_the_name() -> None:
    # "red" only qualifies the name, "143" and "lol" are chat, "×" is a sign; "apple" is its noun.
    words = ["fruit", "apple", "red", "143", "lol", "×", "Fruit", "red apple", "ripe"]
    assert clean_keywords(words, name="red apple") == ["fruit", "apple", "ripe"]


def test_shipped_pictures_are_webp(pack: list[PackPicture]) -> None:
    assert all(picture.webp[:4] == b"RIFF" and picture.webp[8:12] == b"WEBP" for picture in pack)
    assert isinstance(pack[0].transparent_image(), Image.Image)
