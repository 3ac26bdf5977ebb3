"""Forty searches for things in the default gallery, written before any result was looked at.

Each has the ids that a person would accept. Chance in the top 5 is 5 * accepted / gallery size:
under 1 % for most. Do not change a query or an id after seeing what it finds.
"""

QUERIES: tuple[tuple[str, str], ...] = (
    (
        "a hot drink",
        "pictogram-hot-beverage pictogram-teapot pictogram-teacup-without-handle pictogram-mate "
        "photograph-coffee",
    ),
    ("king of the jungle", "pictogram-lion"),
    ("espresso", "photograph-coffee pictogram-hot-beverage"),
    (
        "kitten",
        "pictogram-cat pictogram-cat-face pictogram-black-cat photograph-cat",
    ),
    ("space rocket launch", "photograph-rocket pictogram-rocket"),
    ("woman in an orange spacesuit", "photograph-astronaut"),
    ("ancient coins", "photograph-coins"),
    ("Chinese temple by a lake", "photograph-pagoda"),
    ("orange flower in a garden", "photograph-flower"),
    ("cameraman", "photograph-photographer"),
    ("stars and galaxies", "photograph-galaxies pictogram-milky-way"),
    ("brick wall", "photograph-bricks pictogram-brick"),
    (
        "birthday party",
        "pictogram-birthday-cake pictogram-party-popper pictogram-partying-face pictogram-balloon "
        "pictogram-confetti-ball",
    ),
    (
        "something to keep off the rain",
        "pictogram-umbrella pictogram-closed-umbrella pictogram-umbrella-with-rain-drops "
        "pictogram-umbrella-on-ground",
    ),
    (
        "doctor",
        "pictogram-health-worker pictogram-man-health-worker pictogram-woman-health-worker "
        "pictogram-stethoscope",
    ),
    ("pizza", "pictogram-pizza"),
    ("vehicle that puts out fires", "pictogram-fire-engine"),
    ("police car", "pictogram-police-car pictogram-oncoming-police-car"),
    (
        "winter sports",
        "pictogram-skis pictogram-skier pictogram-snowboarder pictogram-sled pictogram-ice-skate "
        "pictogram-curling-stone pictogram-ice-hockey",
    ),
    ("animal with a long neck", "pictogram-giraffe"),
    ("honey insect", "pictogram-honeybee"),
    (
        "sleepy",
        "pictogram-sleepy-face pictogram-sleeping-face pictogram-yawning-face pictogram-zzz",
    ),
    (
        "very angry face",
        "pictogram-angry-face pictogram-enraged-face pictogram-angry-face-with-horns "
        "pictogram-face-with-symbols-on-mouth",
    ),
    (
        "I love you",
        "pictogram-love-you-gesture pictogram-red-heart pictogram-love-letter "
        "pictogram-heart-hands pictogram-smiling-face-with-hearts",
    ),
    (
        "money",
        "pictogram-money-bag pictogram-money-with-wings pictogram-coin "
        "pictogram-dollar-banknote pictogram-euro-banknote pictogram-yen-banknote "
        "pictogram-pound-banknote pictogram-money-mouth-face photograph-coins",
    ),
    ("musical instrument with six strings", "pictogram-guitar"),
    ("look at tiny things in the lab", "pictogram-microscope"),
    (
        "looking at the stars",
        "pictogram-telescope pictogram-milky-way pictogram-night-with-stars photograph-galaxies",
    ),
    ("breakfast pastry from France", "pictogram-croissant"),
    (
        "fast food",
        "pictogram-hamburger pictogram-french-fries pictogram-pizza pictogram-hot-dog "
        "pictogram-taco",
    ),
    ("sushi", "pictogram-sushi"),
    ("tropical island with a palm tree", "pictogram-desert-island pictogram-palm-tree"),
    ("erupting mountain", "pictogram-volcano"),
    ("Santa", "pictogram-santa-claus pictogram-mrs-claus pictogram-mx-claus"),
    ("halloween pumpkin", "pictogram-jack-o-lantern"),
    (
        "tool for hitting nails",
        "pictogram-hammer pictogram-hammer-and-wrench pictogram-hammer-and-pick",
    ),
    ("recycle", "pictogram-recycling-symbol"),
    ("flying mammal", "pictogram-bat"),
    (
        "bike",
        "pictogram-bicycle pictogram-person-biking pictogram-person-mountain-biking",
    ),
    ("old man with grey hair", "pictogram-old-man pictogram-man-with-white-hair"),
)
