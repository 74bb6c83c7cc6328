"""Every field of a training run, with its default; experiments are short files on top of this one.

The defaults are the published PASCAL-Context recipe. A field is overridden in an experiment file
(`config.batch_size = 8`) or on the command line (`--config.batch_size=8`).
"""

from ml_collections import ConfigDict, config_dict

optional = config_dict.placeholder  # None until set, then of the named type


def get_config() -> ConfigDict:
    """Returns the defaults, locked: a field that is not listed here cannot be set by mistake."""
    config = ConfigDict()

    # Tasks joined by "+"; known: semseg human_parts sal normals depth edge (which ones depends on data.name).
    config.tasks = "semseg+human_parts+sal+normals"
    # Pixels of a side, or (height, width); must suit the backbone's patches and windows.
    config.image_size = config_dict.FieldReference(448, field_type=object)
    # Images per optimiser step over all devices and processes.
    config.batch_size = 32
    # Images per evaluation step over all devices; None: batch_size.
    config.eval_batch_size = optional(int)
    # Every random number of a run is a function of this seed and a step or example number.
    config.seed = 0
    # Length of training: passes over the training set, or optimiser steps (steps win).
    config.total_epochs = optional(float)
    config.total_steps = optional(int)
    # Evaluate on the way every so often (steps win over epochs; both None: only at the end).
    config.eval_every_epochs = optional(float)
    config.eval_every_steps = optional(int)
    # Save every so many steps (None: only at the end and when told to stop).
    config.checkpoint_every_steps = 500
    # Score at the network's resolution (labels resized to it, as published) or at the labels' own: network, original.
    config.eval_resolution = "network"
    # Print a line of progress every so many steps (metrics.jsonl has a row for every step).
    config.log_every_steps = 50
    # Type of activations in the forward pass: "float32" or "bfloat16"; parameters, SVD and warps stay float32.
    config.compute_dtype = "float32"
    # What the backward pass computes again to save memory: "none", "dots" (all of a block but the results of matrix
    # products) or "blocks" (blocks from what enters them).
    config.remat = "none"
    # A loss or gradient that is NaN or infinite: "stop" (saves the batch, names what it was) or "skip" (parameters stay
    # as they were; the step is counted in metrics.jsonl).
    config.on_nonfinite = "stop"

    config.data = ConfigDict()
    # scenes (procedural, needs no download), folder (own files), pascal, nyud, cityscapes, vtab.
    config.data.name = "pascal"
    # Folder that holds the data set; None for scenes.
    config.data.root = optional(str)
    # Use only so many examples of a split; None: all of them (scenes: its default length).
    config.data.train_examples = optional(int)
    config.data.eval_examples = optional(int)
    # Seed of generated data (scenes) and of an automatic split; another seed is another data set.
    config.data.seed = 0
    # Number of classes of semseg and human_parts labels; needed by folder, elsewhere known (cityscapes: 7 for mtan's).
    config.data.semseg_classes = optional(int)
    config.data.human_parts_classes = optional(int)
    # Loader processes (0: none) and reading threads; neither changes what is read.
    config.data.workers = 0
    config.data.threads = 4
    # Probability of a horizontal flip.
    config.data.hflip = 0.5
    # Largest rotation in degrees; the angle is uniform in -rotation..rotation.
    config.data.rotation = 20.0
    # Zoom factor: uniform in (low, high), or one of the listed factors.
    config.data.scale = (0.75, 1.25)
    config.data.scales_are_choices = False
    # Whether pixels brought in from outside by a rotation or zoom are ignored (False: class 0, as upstream).
    config.data.pad_ignore = False
    # Pixels by which labelled areas of normals shrink in training: cubic interpolation leaves rings of noise around
    # unlabelled areas (0: keep them, as upstream).
    config.data.erode_normals = 0
    # Whether a picture without people has no human-parts label at all (as upstream; False: it is all background).
    config.data.ignore_empty_maps = True
    # Cut digits off and let cubic overshoot wrap around in uint8, as upstream (False: round and clip).
    config.data.compat_uint8_wrap = False
    # How pictures are resized: "cubic" (no anti-aliasing, as upstream) or "pillow" (bicubic, anti-aliased).
    config.data.resize = "cubic"
    # One bilinear warp straight to the network's size; about twice as fast as the published cubic warp and resize.
    config.data.fast_warp = False
    # Which package of nyud (astmt, vandenhende, atrc) or cityscapes (official, mtan); None: found from the files.
    config.data.layout = optional(str)
    # nyud: unit of the depth files, metres or millimetres (None: found from the files). folder: the same (None: .npy
    # files of floats are metres, 16-bit PNG files millimetres, whole numbers in .npy files are refused). cityscapes:
    # unit of depth, pixels of disparity (None) or metres; of its mtan package, inverse.
    config.data.depth_unit = optional(str)
    # A file that is missing or damaged: "stop", or "skip" (another example takes its place, and it is counted).
    config.data.on_bad_file = "stop"
    # Report a batch that has been waited for so long, and again whenever the time has doubled; None: wait in silence.
    config.data.stall_seconds = config_dict.FieldReference(60.0, field_type=float)
    # folder: share of train/ that serves as validation where there is no val/; None: val/ is needed.
    config.data.val_fraction = optional(float)
    # folder: what 255 means. None: "ignore" in class maps, "yes" in masks (sal, edge) of 0 and 255; true: "ignore" in
    # masks too, where 1 is "yes"; false: "yes" in class maps of two classes too.
    config.data.mask_ignore = optional(bool)
    # folder: pictures in folders below images/: true: read them; false: pass over them; None: stop where there are any.
    config.data.subfolders = optional(bool)
    # vtab: which of its 19 tasks, for example cifar100.
    config.data.vtab_task = optional(str)
    # vtab: train on 800 pictures and score on 200, to choose hyper-parameters (False: 1,000, and the test set).
    config.data.vtab_tuning = False

    config.backbone = ConfigDict()
    # swin_tiny_patch4_window7, pvt_small, pvt_v2_b2, vit_base_patch16 and their sisters (`list_models()`).
    config.backbone.name = "swin_tiny_patch4_window7"
    # Pretrained weights: a .safetensors file, "embedded" for the small one in the package, None for random weights.
    config.backbone.weights = optional(str)
    # Stochastic depth rate of the last block; earlier blocks rise linearly from 0.
    config.backbone.drop_path_rate = 0.2
    # ViT only: blocks behind which features are read, rising, the last one among them; None: four, equally spaced.
    config.backbone.taps = config_dict.FieldReference(None, field_type=tuple)

    config.head = ConfigDict()
    # Decoder: hrnet for maps, linear for a class of the image. Tasks of the other kind have its default, one of these.
    config.head.name = "hrnet"
    # Decoders of single tasks: {'depth': 'my_head'}; None: head.name for all.
    config.head.per_task = config_dict.FieldReference(None, field_type=object)
    # Channels of the per-task maps that enter the head, one per stage; None: the backbone's own widths.
    config.head.widths = config_dict.FieldReference(None, field_type=tuple)

    config.method = ConfigDict()
    # ditask (transformed singular values), svf (free singular values), lora, mtlora, dora, adapter (bottlenecks),
    # bitfit (biases), norm (norms), full (every weight trains), frozen (decoders only). See docs/methods.md.
    config.method.name = "ditask"
    # ditask: cells of the tessellation of [0, 1]: a transform has cells - 1 parameters. One number, or one per stage
    # (16,16,32,32); those of tasks also by name: {'semseg': 16, 'depth': (16,16,32,32)}.
    config.method.shared_cells = config_dict.FieldReference(64, field_type=object)
    config.method.task_cells = config_dict.FieldReference(64, field_type=object)
    # Linear layers with parameters shared by all tasks (every block), and with some per task (last blocks of a stage).
    config.method.shared_layers = ("qkv", "proj", "fc1", "fc2")
    config.method.task_layers = ("proj", "fc1", "fc2")
    # ditask, svf, mtlora: how many of a stage's last blocks the tasks' streams run through.
    config.method.task_blocks = 1
    # ditask: what is transformed: "value" (the singular values) or "index" (their order axis, as the released code).
    config.method.domain = "value"
    # ditask: the transform acts on [0, headroom * largest singular value]; 1 pins the largest, more lets it move.
    config.method.headroom = 1.0
    # ditask: start: "identity" or "upstream" (uniform, as the released code does).
    config.method.init = "identity"
    # ditask, svf: how the product is computed: "auto" (by shape and token count), "materialised" or "factored"; all
    # give the same.
    config.method.execution = "auto"
    # lora, dora, mtlora: rank of the shared matrices and of every task's (mtlora), given like cells. Published rows
    # have ranks and scales of their own: see the variants of configs/pascal_swin_tiny.py.
    config.method.shared_rank = config_dict.FieldReference(4, field_type=object)
    config.method.task_rank = config_dict.FieldReference(4, field_type=object)
    # lora, dora, mtlora: factor of the low-rank change, given like cells.
    config.method.shared_scale = config_dict.FieldReference(1.0, field_type=object)
    config.method.task_scale = config_dict.FieldReference(1.0, field_type=object)
    # lora, mtlora: whether these factors train.
    config.method.train_scales = False
    # mtlora: a task's change replaces the shared one ("matrix", as published) or comes on top ("matrixv2"), or the
    # shared stream adds the normalised sum of all tasks' outputs ("addition").
    config.method.mode = "matrix"
    # adapter: width of the bottlenecks; one number, or one per stage.
    config.method.bottleneck = config_dict.FieldReference(64, field_type=object)
    # Dropout on the input of adapted layers (lora, dora, mtlora: of the low-rank matrices only).
    config.method.dropout = 0.05
    # Backbone weights that train beside ditask, svf, lora, dora, mtlora and adapter; all four groups as published.
    config.method.unfrozen = ("patch_embed", "norms", "relative_position_bias_table", "reduction")

    config.optimizer = ConfigDict()
    # adamw or sgd.
    config.optimizer.name = "adamw"
    # The three rates are per 512 images: the effective ones are these times batch_size / 512.
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_learning_rate = 5e-7
    config.optimizer.min_learning_rate = 5e-6
    config.optimizer.weight_decay = 0.05
    # Whether weight decay pulls singular values to their start (ditask, svf), and relative-position bias tables to
    # zero, as upstream.
    config.optimizer.decay_thetas = True
    config.optimizer.decay_bias_tables = True
    # Decay rates of the two moments; sgd uses the first as its momentum.
    config.optimizer.betas = (0.9, 0.999)
    config.optimizer.eps = 1e-8
    # Gradients of tasks that conflict: "none" (they add up) or "pcgrad" (each loses what goes against another task's;
    # costs one backward pass per task).
    config.optimizer.surgery = "none"
    # Pieces that a batch goes through the backbone in, one after another: less memory, a backbone computed twice, and
    # loss, gradients and batch statistics of the whole batch. Divides the images of each device.
    config.optimizer.accumulate = 1
    # Largest global L2 norm of the gradient; None: no clipping.
    config.optimizer.clip_norm = config_dict.FieldReference(5.0, field_type=float)
    # step, multistep, cosine, linear, constant.
    config.optimizer.schedule = "step"
    # Linear warm-up, in epochs or in steps (steps win).
    config.optimizer.warmup_epochs = 20.0
    config.optimizer.warmup_steps = optional(int)
    # Whether cosine starts counting after the warm-up (True) or runs underneath it.
    config.optimizer.warmup_prefix = True
    # step: multiply by decay_rate every so many epochs or steps (steps win).
    config.optimizer.decay_epochs = 30.0
    config.optimizer.decay_steps = optional(int)
    config.optimizer.decay_rate = 0.1
    # multistep: multiply by decay_rate at these epochs, rising.
    config.optimizer.milestones = ()
    # linear: last rate as a fraction of the base rate.
    config.optimizer.linear_end_fraction = 0.01
    # Step n uses schedule(n - lag): 1 as upstream, where steps 0 and 1 share the first rate; 0 for the plain schedule.
    config.optimizer.schedule_lag = 1

    config.mesh = ConfigDict()
    # Devices along the batch axis; None: every device there is.
    config.mesh.data = optional(int)
    # Devices that share one copy of the frozen weights, each holding a part: for weights too large to copy. Divides the
    # number of devices.
    config.mesh.fsdp = 1
    # Losses and BatchNorm over the "global" batch, or "per_shard": over each device's (and, with accumulate, each
    # piece's) rows alone, then averaged, as distributed PyTorch does without synchronised BatchNorm.
    config.mesh.statistics = "global"

    config.checkpoint = ConfigDict()
    # Newest checkpoints kept.
    config.checkpoint.keep = 2
    # Also keep the best by this metric, for example "val/delta_m"; None: only the newest.
    config.checkpoint.best_metric = optional(str)
    # Whether the largest or the smallest value of it is the best: "max", "min".
    config.checkpoint.best_mode = "max"
    # Fields, joined by commas, that may differ from what the run was started with, for example total_steps,seed.
    config.checkpoint.allow_changed = optional(str)

    config.logging = ConfigDict()
    # Besides metrics.jsonl: TensorBoard event files in DIR/tensorboard (needs the package tensorboardX).
    config.logging.tensorboard = False
    # Weights & Biases: "off", "offline" (files in DIR/wandb, for `wandb sync`) or "online" (needs the package wandb).
    config.logging.wandb = "off"
    # Where W&B files the run, and under which name; None: that of the run's folder.
    config.logging.wandb_project = "ditask_jax"
    config.logging.wandb_name = optional(str)

    return config.lock()
