"""The mini dataset's classes with their ids in every layout, and the photographs that it is cut from.

The pictures are files that the wheel of scikit-image carries (0.22 and newer do), so that no download is needed.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mmvit_ext.errors.user_error import UserError

__all__ = [
    'COCO_CATEGORIES',
    'COCO_STUFF',
    'MINI_CLASSES',
    'PANOPTIC_STUFF',
    'MiniClass',
    'MiniDatasetError',
    'load_photos',
]


class MiniDatasetError(UserError):
    """A wrong argument or a missing source, in one sentence with its remedy."""


@dataclass(frozen=True)
class MiniClass:
    """One class of the mini dataset."""

    name: str  # COCO's name for things, a plain word for stuff
    index: int  # from 1; 0 is 'other', which no layout but PASCAL-Context with 60 classes trains on
    is_thing: bool  # whether it comes in countable instances, with boxes and masks in the COCO layout
    photo: str  # file inside ``skimage/data`` that its pixels come from
    palette: tuple[int, int, int]  # RGB of the class that stands for it in mmseg's ADE20K palette
    ade: int  # pixel value in ADE20K annotation files, 1..150
    coco_stuff: int  # the same in COCO-Stuff-10K, 1..171
    context: int  # the same in PASCAL-Context, 1..59
    coco: int | None = None  # COCO category id, None for stuff
    wnid: str | None = None  # ImageNet folder, None for stuff
    imagenet: int | None = None  # ImageNet-1k class number from 0, None for stuff


_CLASSES = (
    MiniClass('sky', 1, False, 'rocket.jpg', (6, 230, 230), 3, 146, 47),
    MiniClass('wall', 2, False, 'brick.png', (120, 120, 120), 1, 160, 56),
    MiniClass('grass', 3, False, 'grass.png', (4, 250, 7), 10, 113, 29),
    MiniClass('gravel', 4, False, 'gravel.png', (120, 120, 70), 14, 114, 30),
    MiniClass('airplane', 5, True, 'moon.png', (0, 255, 82), 91, 5, 1, 5, 'n02690373', 404),
    MiniClass('cat', 6, True, 'chelsea.png', (255, 0, 122), 127, 16, 15, 17, 'n02123045', 281),
    MiniClass('cup', 7, True, 'coffee.png', (25, 194, 194), 148, 42, 21, 47, 'n03063599', 504),
    MiniClass('motorcycle', 8, True, 'motorcycle_left.png', (163, 0, 255), 117, 4, 34, 4, 'n03791053', 670),
)

#: The classes by name, in the order of their index.
MINI_CLASSES: Mapping[str, MiniClass] = {c.name: c for c in _CLASSES}

#: Photographs by file name: the part that is used, as (left, top, right, bottom) in pixels; None is all of it.
PHOTOS: Mapping[str, tuple[int, int, int, int] | None] = {
    **dict.fromkeys(('brick.png', 'grass.png', 'gravel.png', 'moon.png')),
    'rocket.jpg': (100, 0, 550, 110),
    'chelsea.png': (45, 152, 240, 290),
    'coffee.png': (105, 15, 470, 340),
    'motorcycle_left.png': (150, 185, 640, 440),
    **dict.fromkeys(('coins.png', 'page.png')),  # The sources of 'other': things that no class stands for.
    'astronaut.png': (40, 260, 330, 500),
}

#: COCO's 80 categories in the order of its annotation files: (id, name, supercategory).
COCO_CATEGORIES: tuple[tuple[int, str, str], ...] = tuple(
    (int(number), name.replace('_', ' '), supercategory)
    for supercategory, members in {
        'person': '1:person',
        'vehicle': '2:bicycle 3:car 4:motorcycle 5:airplane 6:bus 7:train 8:truck 9:boat',
        'outdoor': '10:traffic_light 11:fire_hydrant 13:stop_sign 14:parking_meter 15:bench',
        'animal': '16:bird 17:cat 18:dog 19:horse 20:sheep 21:cow 22:elephant 23:bear 24:zebra 25:giraffe',
        'accessory': '27:backpack 28:umbrella 31:handbag 32:tie 33:suitcase',
        'sports': '34:frisbee 35:skis 36:snowboard 37:sports_ball 38:kite 39:baseball_bat 40:baseball_glove '
        '41:skateboard 42:surfboard 43:tennis_racket',
        'kitchen': '44:bottle 46:wine_glass 47:cup 48:fork 49:knife 50:spoon 51:bowl',
        'food': '52:banana 53:apple 54:sandwich 55:orange 56:broccoli 57:carrot 58:hot_dog 59:pizza 60:donut 61:cake',
        'furniture': '62:chair 63:couch 64:potted_plant 65:bed 67:dining_table 70:toilet',
        'electronic': '72:tv 73:laptop 74:mouse 75:remote 76:keyboard 77:cell_phone',
        'appliance': '78:microwave 79:oven 80:toaster 81:sink 82:refrigerator',
        'indoor': '84:book 85:clock 86:vase 87:scissors 88:teddy_bear 89:hair_drier 90:toothbrush',
    }.items()
    for number, name in (member.split(':') for member in members.split())
)

_STUFF = (
    '92:banner 93:blanket 95:bridge 100:cardboard 107:counter 109:curtain 112:door-stuff 118:floor-wood 119:flower '
    '122:fruit 125:gravel 128:house 130:light 133:mirror-stuff 138:net 141:pillow 144:platform 145:playingfield '
    '147:railroad 148:river 149:road 151:roof 154:sand 155:sea 156:shelf 159:snow 161:stairs 166:tent 168:towel '
    '171:wall-brick 175:wall-stone 176:wall-tile 177:wall-wood 178:water-other 180:window-blind 181:window-other '
    '184:tree-merged 185:fence-merged 186:ceiling-merged 187:sky-other-merged 188:cabinet-merged 189:table-merged '
    '190:floor-other-merged 191:pavement-merged 192:mountain-merged 193:grass-merged 194:dirt-merged '
    '195:paper-merged 196:food-other-merged 197:building-other-merged 198:rock-merged 199:wall-other-merged '
    '200:rug-merged'
)
#: The 53 classes of stuff of COCO's panoptic annotations by category id, in their order.
COCO_STUFF: Mapping[int, str] = {int(number): name for number, name in (part.split(':') for part in _STUFF.split())}

#: Category ids of the mini dataset's stuff, by its index.
PANOPTIC_STUFF: Mapping[int, int] = {1: 187, 2: 171, 3: 193, 4: 125}


def load_photos() -> dict[str, Image.Image]:
    """RGB photographs by file name from the installed scikit-image, upright and cut to the part that is used."""
    # find_spec does not import scikit-image, which would cost more time than reading the pictures.
    spec = importlib.util.find_spec('skimage')
    if spec is None or not spec.origin:
        raise MiniDatasetError("The photographs are inside scikit-image: run `pip install 'scikit-image>=0.22'`.")
    folder, photos = Path(spec.origin).parent / 'data', {}
    for name, box in PHOTOS.items():
        try:
            with Image.open(folder / name, formats=('JPEG', 'PNG')) as photo:
                photos[name] = photo.convert('RGB').crop(box)
        except OSError as error:
            remedy = "run `pip install --force-reinstall 'scikit-image>=0.22'`."
            found = f'The photograph {folder / name} cannot be read ({type(error).__name__})'
            raise MiniDatasetError(f'{found}: {remedy}') from error
    photos['brick.png'] = photos['brick.png'].transpose(Image.Transpose.ROTATE_90)  # the wall lies on its side
    return photos
