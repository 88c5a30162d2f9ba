"""The picture containers behind `images.py`, one module each; they know files and samples, not `Picture`.

`pillow` reads what has 8 bits a channel, `png` and `tiff` what has 16 (of those Pillow keeps only grey);
`exif` and `icc` look after what travels with the pixels; `output` makes all of it fit a format.
"""
