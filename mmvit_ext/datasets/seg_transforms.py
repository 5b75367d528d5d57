"""Load label maps so that a wrong label ends the run with the file's name and what is wrong with it.

mmseg casts every label map to 8 bit; a class index outside the classes then shows up as an index error without a file
name (on a GPU as a device assertion), and on validation not at all.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmcv.transforms import LoadAnnotations

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import open_image

from ..registry import TRANSFORMS
from .label_range import count_values, range_error
from .label_values import ClassValues
from .transforms import read_bytes, undecodable

__all__ = ['LoadSegAnnotations']

_LEFT_OUT = 255  # in mmseg's label_map, a class that the dataset is used without


@TRANSFORMS.register_module()
class LoadSegAnnotations(LoadAnnotations):
    """Load a label map as mmseg's ``LoadAnnotations`` does, and check it.

    The commands set the number of classes and ``ignore_index`` from the model's head where they are left out. A sample
    that comes from no dataset and has no label map, as in the libraries' inference functions, stays as it is.

    Args:
        num_classes: Number of classes, 1 to 255, not counting an ignored zero. ``None`` leaves the values unchecked.
        reduce_zero_label: Whether 0 in the file means "ignore" and classes count from 1; ``None``: as the dataset says.
        ignore_index: Value of pixels without a label, 0 to 255, both in the file and after loading.
        values: The value of each class in the files, in the order of the classes, where it is not 0, 1, 2, ...; or its
            colour as ``'#rrggbb'``. Of colours, all that are not listed mean "no label".
        ignored: Further values that mean "no label", for ``values`` that are numbers.
        tolerance: How far a pixel of a file with losses may be from ``values``, 0 to 255, in its most different
            channel; the nearest one counts, and pixels farther away have no label.
        backend_args: Arguments of the file backend.

    Raises:
        UserError: The file is unreadable, no single-channel map, not of the image's size, or has a value outside the
            classes; names the file, the values with their pixel counts and the likely remedy.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        reduce_zero_label: bool | None = None,
        ignore_index: int = 255,
        values: Sequence[int | str] | None = None,
        ignored: Sequence[int] = (),
        tolerance: int = 0,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(False, False, with_seg=True, backend_args=backend_args, imdecode_backend='pillow')
        if num_classes is not None and not 1 <= num_classes <= 255:
            raise ValueError(f'num_classes must be 1 to 255 (label maps are 8-bit), got {num_classes}')
        if not 0 <= ignore_index <= 255:
            raise ValueError(f'ignore_index must be 0 to 255 (label maps are 8-bit), got {ignore_index}')
        self.num_classes, self.reduce_zero_label, self.ignore_index = num_classes, reduce_zero_label, ignore_index
        if values is None and (len(ignored) or tolerance):
            raise ValueError('ignored and tolerance go with values: list the value of each class, too')
        if values is not None and reduce_zero_label:
            raise ValueError('reduce_zero_label has no effect with values: leave 0 out of them')
        self.values = None if values is None else ClassValues(values, ignored, tolerance)
        if values is not None and num_classes not in (None, len(values)):
            raise ValueError(f'values lists {len(values)} classes, but num_classes is {num_classes}')

    def _load_seg_map(self, results: dict[str, Any]) -> None:
        if 'seg_map_path' not in results and 'sample_idx' not in results:
            return
        if 'seg_map_path' not in results:
            image = results.get('img_path')
            raise UserError(f'the image {image} has no label map: set data_prefix.seg_map_path of the dataset')
        raw = self.decode(results['seg_map_path'])
        self.check_size(raw, results)
        self.check_values(raw, results)
        results['gt_seg_map'] = self.to_classes(raw, results)
        results['seg_fields'].append('gt_seg_map')

    def check_size(self, raw: np.ndarray, results: Mapping[str, Any]) -> None:
        """Raise :class:`UserError` where a label map is not as large as its image (``ori_shape``)."""
        size = results.get('ori_shape')
        if size is not None and tuple(raw.shape) != tuple(size[:2]):
            label = f'the label map {results["seg_map_path"]} is {raw.shape[1]}x{raw.shape[0]} pixels'
            image = f'its image {results.get("img_path")} is {size[1]}x{size[0]}'
            raise UserError(f'{label} but {image}: they must be equal (turn both as the EXIF orientation says)')

    def to_classes(self, raw: np.ndarray, results: Mapping[str, Any]) -> np.ndarray:
        """Class indices (H, W; uint8), counted from 0, from a file's values (H, W) and the dataset's ``label_map``."""
        if self.values is not None:
            return self.values.to_classes(raw, self.ignore_index)
        ignored = (raw == 0) | (raw == self.ignore_index)
        labels = np.where(ignored, self.ignore_index, raw - 1) if self._reduces(results) else raw
        if results.get('label_map') is not None:
            table = np.arange(256)
            for old, new in results['label_map'].items():
                table[int(old)] = self.ignore_index if new == _LEFT_OUT else new
            labels = table[np.clip(labels, 0, 255)]
        return labels.astype(np.uint8)

    def _reduces(self, results: Mapping[str, Any]) -> bool:
        of_dataset = bool(results.get('reduce_zero_label', False))
        if self.reduce_zero_label is None:
            return of_dataset
        if 'reduce_zero_label' in results and of_dataset != self.reduce_zero_label:
            where = f'in LoadSegAnnotations but {of_dataset} in the dataset (at {results["seg_map_path"]})'
            raise UserError(f'reduce_zero_label is {self.reduce_zero_label} {where}: set it in the dataset only')
        return self.reduce_zero_label

    def decode(self, path: str) -> np.ndarray:
        """Read the values (H, W) of a label map as they are in the file."""
        content = read_bytes(path, 'label map', self.backend_args)
        try:
            with open_image(io.BytesIO(content), 'label map') as image:
                if self.values is not None:
                    image = self.values.prepare(image)
                mode, raw = image.mode, np.array(image)
        except Exception as error:
            raise undecodable(path, 'label map', error, 'replace it, or remove it with its image') from error
        if self.values is not None:
            raw = self.values.flatten(raw)
        if raw.ndim != 2 or mode == 'F':
            wanted = 'expected one channel of class indices, convert its colours to indices first'
            raise UserError(f'the label map {path} is a {mode} picture with colours or fractions: {wanted}')
        return raw.astype(np.uint8) if raw.dtype in (np.uint8, np.bool_) else raw.astype(np.int64)

    def wrong_values(self, raw: np.ndarray, results: Mapping[str, Any]) -> dict[int, int]:
        """Number of pixels by value of the values outside the classes; empty without ``num_classes``."""
        if self.values is not None:
            return self.values.wrong(raw, self.ignore_index)
        if self.num_classes is None:
            return {}
        first = int(self._reduces(results))
        classes = range(self.num_classes) if results.get('label_map') is None else map(int, results['label_map'])
        # In the type of the values, so that they are looked up in a table.
        valid = np.array([*range(first), *(value + first for value in classes), self.ignore_index], np.int64)
        wrong = ~np.isin(raw, valid[valid <= 255].astype(raw.dtype))
        return count_values(raw[wrong]) if wrong.any() else {}

    def check_values(self, raw: np.ndarray, results: Mapping[str, Any]) -> None:
        """Raise :class:`UserError` where :meth:`wrong_values` finds some, with the likely remedy."""
        wrong, count = self.wrong_values(raw, results), self.num_classes
        if wrong and self.values is not None:
            listed = f'those in values, and {self.ignore_index} or those in ignored for "no label"'
            remedy = 'correct the file, or add the value to values (a class) or to ignored'
            raise range_error(results['seg_map_path'], wrong, len(self.values.keys), listed, remedy)
        if not wrong or count is None:
            return
        reduce, path = self._reduces(results), results['seg_map_path']
        expected = f'{int(reduce)} to {reduce + count - 1}, {self.ignore_index} = ignored' + ', 0 = ignored' * reduce
        present = np.unique(raw[raw != self.ignore_index])
        raise range_error(path, wrong, count, expected, _hint(str(path), present, count, reduce))


def _hint(path: str, present: np.ndarray, count: int, reduce: bool) -> str:
    """The most likely cause, from the values that a label map has."""
    if path.lower().endswith(('.jpg', '.jpeg')):
        return 'JPEG changes the values it stores: save label maps as PNG'
    top = int(present.max())
    if len(present) == 2 and present[0] == 0 and top > count:
        return f'a mask of 0 and {top} has to be written as 0 and 1'
    if not reduce and top == count:
        return 'classes seem to count from 1: set reduce_zero_label=True in the dataset if 0 means "no class"'
    return 'correct the file, num_classes or the dataset'
