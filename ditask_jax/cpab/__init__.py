"""CPAB in one dimension: diffeomorphisms of [0, 1] from piecewise affine velocity fields, and their use on spectra."""

from ditask_jax.cpab.flow import displacement, displacement_and_slope, flow_derivative, inverse, transform
from ditask_jax.cpab.spectrum import (
    DOMAINS,
    SpectrumPoints,
    deformed_singular_values,
    prepare_spectrum,
    spectrum_displacement,
    spectrum_displacements,
)
from ditask_jax.cpab.tessellation import BASES, Tessellation, affine_basis, vertex_basis, vertex_velocities

__all__ = [
    "BASES",
    "DOMAINS",
    "SpectrumPoints",
    "Tessellation",
    "affine_basis",
    "deformed_singular_values",
    "displacement",
    "displacement_and_slope",
    "flow_derivative",
    "inverse",
    "prepare_spectrum",
    "spectrum_displacement",
    "spectrum_displacements",
    "transform",
    "vertex_basis",
    "vertex_velocities",
]
