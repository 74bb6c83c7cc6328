"""Label specs of the six tasks, spelt out here so that these tests depend on nothing but the data package."""

from ditask_jax.labels import LabelSpec

SEMSEG = LabelSpec("semseg", num_values=12)
PARTS = LabelSpec("human_parts", num_values=7, all_zero_is_missing=True)
SAL = LabelSpec("sal", num_values=2)
EDGE = LabelSpec("edge", num_values=2)
NORMALS = LabelSpec("normals", 3, "float32", "cubic", is_direction_field=True, zero_is_missing=True)
DEPTH = LabelSpec("depth", 1, "float32", scales_inversely=True, zero_is_missing=True)
ALL = (SEMSEG, PARTS, SAL, NORMALS, DEPTH, EDGE)
