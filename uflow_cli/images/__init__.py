"""Read, list, resize, turn, draw on and write images; the only room that knows Pillow, OpenCV and the image codecs.

Images are (H, W, 3) uint8 RGB, masks (H, W) bool (True = defect), sizes (height, width) in pixels, points (x, y).
"""

from uflow_cli.images.drawing import (
    OPENCV_VERSION,
    colour_map,
    connected_parts,
    draw_outlines,
    draw_polygons,
    highest_around,
    lay_over,
    outline,
    resize_image,
    resize_map,
    resize_map_in_strips,
    resize_mask,
    tilt_image,
)
from uflow_cli.images.listing import (
    IMAGE_SUFFIXES,
    LeftOut,
    describe_left_out,
    is_of_the_system,
    list_images,
    natural_order,
)
from uflow_cli.images.png import encode_png, write_png, write_png_strips
from uflow_cli.images.reading import (
    decode_image,
    decoder_versions,
    read_encoded,
    read_image,
    read_mask,
)
from uflow_cli.images.views import (
    ORIGINAL,
    Augmentation,
    Source,
    View,
    done_ahead,
    survey_images,
    with_views,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "OPENCV_VERSION",
    "ORIGINAL",
    "Augmentation",
    "LeftOut",
    "Source",
    "View",
    "colour_map",
    "connected_parts",
    "decode_image",
    "decoder_versions",
    "describe_left_out",
    "done_ahead",
    "draw_outlines",
    "draw_polygons",
    "encode_png",
    "highest_around",
    "is_of_the_system",
    "lay_over",
    "list_images",
    "natural_order",
    "outline",
    "read_encoded",
    "read_image",
    "read_mask",
    "resize_image",
    "resize_map",
    "resize_map_in_strips",
    "resize_mask",
    "survey_images",
    "tilt_image",
    "with_views",
    "write_png",
    "write_png_strips",
]
