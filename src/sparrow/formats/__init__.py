"""Every on-disk layout and every wire layout of our own, declared once as data, with pure codecs.

Owns how bytes are laid out; must not open, read or write anything, and knows no clock. tools/gen_layout.py turns
the declarations into the C header, the Cython declarations and docs/formats.
"""
