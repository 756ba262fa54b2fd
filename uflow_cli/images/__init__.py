"""Read, write, resize, turn and draw on images; the only room that knows OpenCV.

Images are (H, W, 3) uint8 RGB, masks (H, W) bool (True = defect), sizes (height, width) in pixels, points (x, y).
"""

from uflow_cli.images.drawing import colour_map, draw_outlines, outline, put_text
from uflow_cli.images.reading import (
    IMAGE_SUFFIXES,
    OPENCV_VERSION,
    decode_image,
    list_images,
    natural_order,
    read_encoded,
    read_image,
    read_mask,
)
from uflow_cli.images.resizing import resize_image, resize_map, resize_mask
from uflow_cli.images.turning import tilt_image
from uflow_cli.images.views import (
    ORIGINAL,
    Augmentation,
    Source,
    View,
    done_ahead,
    survey_images,
    with_views,
)
from uflow_cli.images.writing import encode_png, write_png

__all__ = [
    "IMAGE_SUFFIXES",
    "OPENCV_VERSION",
    "ORIGINAL",
    "Augmentation",
    "Source",
    "View",
    "colour_map",
    "decode_image",
    "done_ahead",
    "draw_outlines",
    "encode_png",
    "list_images",
    "natural_order",
    "outline",
    "put_text",
    "read_encoded",
    "read_image",
    "read_mask",
    "resize_image",
    "resize_map",
    "resize_mask",
    "survey_images",
    "tilt_image",
    "with_views",
    "write_png",
]
