"""Boxes of an image through the steps of `decode`: turned upright, and centred on the square that a network gets.

Knows sizes only, no pixels. Coordinates are continuous: pixel i covers i to i + 1.
"""

Box = tuple[float, float, float, float]  # left, top, right, bottom

Size = tuple[int, int]  # width and height in pixels


def margins(size: Size, image_px: int) -> Size:
    """Left and top margin of a picture that is centred on a square; the extra pixel of an odd one is right or below."""
    return (image_px - size[0]) // 2, (image_px - size[1]) // 2


def turned(box: Box, size: Size, orientation: int) -> Box:
    """A box of an image that is stored in this size, in the same image turned upright by its EXIF orientation."""
    left, top, right, bottom = box
    if orientation in (2, 3, 7, 8):  # the stored x runs backwards
        left, right = size[0] - right, size[0] - left
    if orientation in (3, 4, 6, 7):
        top, bottom = size[1] - bottom, size[1] - top
    return (left, top, right, bottom) if orientation < 5 else (top, left, bottom, right)


def widened(box: Box, fitted: Size, image_px: int) -> Box:
    """The box that the whole square shows, where `box` was fitted to a size in pixels and centred on it.

    It reaches beyond the image where the square has margins.
    """
    left, top = margins(fitted, image_px)
    across, down = (box[2] - box[0]) / fitted[0], (box[3] - box[1]) / fitted[1]
    x, y = box[0] - left * across, box[1] - top * down
    return x, y, x + image_px * across, y + image_px * down


def in_square(box: Box, size: Size, square: Box) -> Box:
    """A box in shares of an upright image's sides as shares of the square's; NaN stays NaN."""
    (left, top, right, bottom), (x, y, x_end, y_end), (width, height) = box, square, size
    across, down = x_end - x, y_end - y
    left, right = ((edge * width - x) / across for edge in (left, right))
    top, bottom = ((edge * height - y) / down for edge in (top, bottom))
    return left, top, right, bottom
