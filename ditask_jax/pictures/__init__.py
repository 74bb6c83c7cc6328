"""Drawing: panels of predictions, curves, spectra, movement and sweeps from plain arrays, as PNG and SVG.

Every figure is a Matplotlib `Figure` object of its own on the Agg canvas; the global state of pyplot is never touched.
Text never overlaps: widths are measured before they are used. Figures can be read in greyscale: lines differ in dashes
and markers too, scales of colour rise in lightness, classes carry their numbers.
"""
