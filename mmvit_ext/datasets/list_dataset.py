"""Images and label maps that a list pairs, wherever they are and whatever they are called."""

import csv
import os
from typing import Any

from mmengine.dataset import BaseDataset

from mmvit_ext.errors.user_error import UserError

from ..registry import DATASETS

__all__ = ['ListSegDataset']


@DATASETS.register_module()
class ListSegDataset(BaseDataset):
    """A segmentation dataset whose ``ann_file`` is a CSV with the columns ``image`` and ``mask``.

    Paths are relative to ``data_root``. ``metainfo`` names ``classes`` and their ``palette``; the masks are read by
    :class:`mmvit_ext.LoadSegAnnotations`, whose ``values`` say which value or colour is which class. A line without a
    mask is an image without annotation.

    Args:
        ann_file: The CSV file.
        data_prefix: Folders of images and masks, below ``data_root``.
        **kwargs: Those of :class:`mmengine.dataset.BaseDataset`.

    Raises:
        UserError: The file has no such columns or no line.
    """

    def __init__(self, ann_file: str, data_prefix: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(ann_file, data_prefix=data_prefix or {'img_path': '', 'seg_map_path': ''}, **kwargs)
        self._metainfo.setdefault('label_map', None)
        self._metainfo.setdefault('reduce_zero_label', False)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One sample for each line, with ``img_path`` and ``seg_map_path``."""
        with open(self.ann_file, newline='', encoding='utf-8-sig') as file:
            reader = csv.DictReader(file)
            if not {'image', 'mask'} <= set(reader.fieldnames or ()):
                raise UserError(f'{self.ann_file} has the columns {reader.fieldnames}: expected image,mask')
            lines = list(reader)
        if not lines:
            raise UserError(f'{self.ann_file} lists no image: add lines of image,mask')
        return [self._sample(line) for line in lines]

    def _sample(self, line: dict[str, str]) -> dict[str, Any]:
        sample: dict[str, Any] = {'img_path': os.path.join(self.data_prefix['img_path'], line['image'])}
        if line['mask']:
            sample['seg_map_path'] = os.path.join(self.data_prefix['seg_map_path'], line['mask'])
        return {**sample, 'label_map': None, 'reduce_zero_label': False, 'seg_fields': []}
