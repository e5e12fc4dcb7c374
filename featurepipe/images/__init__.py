"""Images: bytes → uint8 pixels, as timm's evaluation transform makes them.

Three decoders, named in a backbone's transform and thus in its fingerprint:

``pillow``
    Pillow and timm's own transform: its very pixels.
``torchvision``
    JPEG into a tensor by torchcodec, else by torchvision (the pixels are the same), else by Pillow; resizing by
    torchvision's antialiased uint8 tensors: about twice as fast. No pixel of the photos that it was tried on was
    further than 2/255 from Pillow's; images other than photos can be (JPEGs of noise: 9/255).
``draft``
    As ``torchvision``, but libjpeg decodes a large JPEG at 1/2, 1/4 or 1/8 of its size, which for photos of many
    megapixels is several times faster again. The pixels drift more (5/255 on the same photos); never chosen unasked.

Whatever the decoder: the image is turned upright by what EXIF or XMP says (`orientations`); samples of more than 8
bits are scaled to 8 by their declared depth, and refused where none is known (`depths`); palette, CMYK, 1-bit and
greyscale images become RGB; an alpha channel is dropped, as timm and torchvision do; of several frames the first is
taken; what Pillow would refuse by default is refused, whatever other libraries have set (`switches`). All of them let
go of the interpreter lock while they work, so threads decode in parallel.

A `View` instead of a plain `ImageTransform` gives the same image, differently cropped and perhaps mirrored: see
`featurepipe.images.augmentations`.
"""

from featurepipe.images.augmentations import AUGMENTATIONS
from featurepipe.images.decoders import DECODERS, DEFAULT_DECODER, Decoder
from featurepipe.images.pictures import convert, from_array
from featurepipe.images.transforms import ImageTransform, View, Views, decode, described, picture_of, size_of

__all__ = [
    "AUGMENTATIONS",
    "DECODERS",
    "DEFAULT_DECODER",
    "Decoder",
    "ImageTransform",
    "View",
    "Views",
    "convert",
    "decode",
    "described",
    "from_array",
    "picture_of",
    "size_of",
]
