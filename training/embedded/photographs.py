"""The sample photographs of the default gallery: captions written by hand, licence of each one.

Only pictures that are known to be free to pass on. Left out for that reason: scikit-image's moon
(no source given) and motorcycle (the stereo benchmark it is from names no licence).
"""

from dataclasses import dataclass

WHEELS = ("scikit-image==0.26.0", "scikit-learn==1.9.1", "matplotlib==3.10.7")
SKIMAGE = "skimage/data"
SKLEARN = "sklearn/datasets/images"


@dataclass(frozen=True, slots=True, kw_only=True)
class Photograph:
    """One photograph inside a wheel and what is known about it."""

    file: str  # its path in the wheel
    name: str
    caption: str
    keywords: tuple[str, ...]
    group: str
    credit: str


PHOTOGRAPHS = (
    Photograph(
        file=f"{SKIMAGE}/astronaut.png",
        name="astronaut",
        caption="A smiling astronaut in an orange space suit, with a flag and a model shuttle",
        keywords=("woman", "Eileen Collins", "space suit", "helmet", "space shuttle", "portrait"),
        group="people",
        credit="Eileen Collins, NASA, public domain",
    ),
    Photograph(
        file=f"{SKIMAGE}/camera.png",
        name="photographer",
        caption="A man in a dark coat looks through a camera on a tripod, in black and white",
        keywords=("cameraman", "camera", "tripod", "man", "lawn", "city"),
        group="people",
        credit="Lav Varshney, CC0",
    ),
    Photograph(
        file="matplotlib/mpl-data/sample_data/grace_hopper.jpg",
        name="naval officer",
        caption="A naval officer in uniform with glasses and a peaked cap, in front of a flag",
        keywords=("Grace Hopper", "computer scientist", "admiral", "uniform", "woman", "portrait"),
        group="people",
        credit="Grace Hopper, James S. Davis, United States Navy, public domain",
    ),
    Photograph(
        file=f"{SKIMAGE}/chelsea.png",
        name="cat",
        caption="The face of a tabby cat with green eyes",
        keywords=("Chelsea", "tabby", "pet", "kitten", "whiskers", "animal"),
        group="animals and nature",
        credit="Stefan van der Walt, CC0",
    ),
    Photograph(
        file=f"{SKIMAGE}/coffee.png",
        name="coffee",
        caption="An espresso in a red cup on a saucer with a spoon, on a wooden table",
        keywords=("espresso", "cup", "saucer", "spoon", "drink", "cafe", "table"),
        group="food and drink",
        credit="Rachel Michetti, courtesy of Pikolo Espresso Bar, CC0",
    ),
    Photograph(
        file=f"{SKIMAGE}/rocket.jpg",
        name="rocket",
        caption="A rocket on its launch pad at dusk, lit by floodlights",
        keywords=("Falcon 9", "launch pad", "spacecraft", "towers", "evening", "space"),
        group="travel and places",
        credit="SpaceX, released into the public domain in 2015",
    ),
    Photograph(
        file=f"{SKIMAGE}/coins.png",
        name="coins",
        caption="Four rows of ancient Greek coins from Pompeii, in black and white",
        keywords=("money", "ancient", "metal", "museum", "archaeology", "treasure"),
        group="objects",
        credit="Brooklyn Museum, no known copyright restrictions",
    ),
    Photograph(
        file=f"{SKIMAGE}/hubble_deep_field.jpg",
        name="galaxies",
        caption="Thousands of distant galaxies on a black sky, seen by the Hubble telescope",
        keywords=("Hubble", "deep field", "stars", "space", "universe", "astronomy", "night sky"),
        group="science",
        credit="NASA, ESA and the Hubble eXtreme Deep Field team, public domain",
    ),
    Photograph(
        file=f"{SKIMAGE}/retina.jpg",
        name="retina",
        caption="The back of a human eye: an orange disc with branching blood vessels",
        keywords=("eye", "fundus", "blood vessels", "optic nerve", "medicine", "macula"),
        group="science",
        credit="Mikael Häggström, CC0",
    ),
    Photograph(
        file=f"{SKIMAGE}/ihc.png",
        name="tissue under the microscope",
        caption="Glands of the colon under a microscope, stained brown and blue",
        keywords=("cells", "histology", "gut", "stain", "biology", "medicine", "pathology"),
        group="science",
        credit="Center for Microscopy and Molecular Imaging, no known copyright restrictions",
    ),
    Photograph(
        file=f"{SKIMAGE}/cell.png",
        name="cell",
        caption="A single round cell floating in saline, bright on a dark background",
        keywords=("biology", "hologram", "microscope", "phase image", "circle"),
        group="science",
        credit="Paul Müller, CC0",
    ),
    Photograph(
        file=f"{SKIMAGE}/brick.png",
        name="bricks",
        caption="A wall of narrow bricks, in black and white",
        keywords=("brick wall", "wall", "building", "texture", "masonry"),
        group="textures",
        credit="CC0Textures, CC0",
    ),
    Photograph(
        file=f"{SKIMAGE}/grass.png",
        name="grass",
        caption="Short grass from above, in black and white",
        keywords=("lawn", "meadow", "ground", "texture", "plants"),
        group="textures",
        credit="Linolafett, CC0",
    ),
    Photograph(
        file=f"{SKIMAGE}/gravel.png",
        name="gravel",
        caption="Grey gravel: many small sharp stones",
        keywords=("stones", "pebbles", "rocks", "ground", "texture"),
        group="textures",
        credit="CC0Textures, CC0",
    ),
    Photograph(
        file=f"{SKIMAGE}/horse.png",
        name="horse",
        caption="The black outline of a standing horse on white",
        keywords=("silhouette", "animal", "stallion", "pony", "shape"),
        group="animals and nature",
        credit="Andreas Preuss, CC0",
    ),
    Photograph(
        file=f"{SKIMAGE}/clock_motion.png",
        name="moving clock",
        caption="A wall clock blurred by the moving camera",
        keywords=("clock", "motion blur", "time", "out of focus"),
        group="objects",
        credit="Stefan van der Walt, public domain",
    ),
    Photograph(
        file=f"{SKIMAGE}/page.png",
        name="printed page",
        caption="A printed page of a book, darker towards one side",
        keywords=("text", "paper", "document", "scan", "print", "words"),
        group="objects",
        credit="scikit-image team, BSD 3-clause licence",
    ),
    Photograph(
        file=f"{SKIMAGE}/text.png",
        name="handwriting",
        caption="Handwritten letters and figures on lined paper, seen at an angle",
        keywords=("writing", "formula", "mathematics", "notes", "ink", "paper"),
        group="objects",
        credit="Wikipedia, public domain",
    ),
    Photograph(
        file=f"{SKIMAGE}/color.png",
        name="colour wheel",
        caption="A wheel of all colours, white in the middle",
        keywords=("color wheel", "rainbow", "spectrum", "hue", "circle"),
        group="objects",
        credit="scikit-image team, BSD 3-clause licence",
    ),
    Photograph(
        file=f"{SKLEARN}/china.jpg",
        name="pagoda",
        caption="A Chinese tower with green and orange roofs above a lake",
        keywords=("temple", "China", "Summer Palace", "Beijing", "building", "trees", "landscape"),
        group="travel and places",
        credit="danielbuechele on Flickr, CC BY 2.0",
    ),
    Photograph(
        file=f"{SKLEARN}/flower.jpg",
        name="flower",
        caption="An orange dahlia in bloom in front of dark green leaves",
        keywords=("dahlia", "blossom", "petals", "garden", "plant", "orange flower"),
        group="animals and nature",
        credit="vultilion on Flickr, CC BY 2.0",
    ),
)
