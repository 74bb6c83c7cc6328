"""The data sets as tensorflow-datasets builders: `pascal_mt`, `nyud_mt`, `cityscapes_mt`.

Nothing here, nor what it calls, imports TensorFlow: files are handed over as bytes and written as array_record.
Importing a module of this package registers its builders, so `tfds.builder("nyud_mt/atrc", data_dir=...)` works too.
"""
