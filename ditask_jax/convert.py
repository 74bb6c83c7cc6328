"""`python -m ditask_jax.convert`: a foreign checkpoint becomes a weight file of this package."""

from ditask_jax import cli


def main(argv: list[str]) -> int:
    """Converts one file and prints what was taken and what was left out."""
    parser = cli.Parser(
        "ditask_jax.convert",
        "Turns weights of Swin, PVT, PVT v2, ViT, DINOv2 or DINOv3 (official, timm, Hugging Face, DiTASK or MTLoRA "
        "training checkpoints) into a weight file, numbers untouched.",
        [
            "swin_tiny_patch4_window7_224.pth swin_tiny.safetensors",
            "model.safetensors vit_base.safetensors --architecture=vit_base_patch16",
            "swin_ema.pth.tar swin_ema.safetensors --state=state_dict_ema",
            "hf://timm/swin_tiny_patch4_window7_224.ms_in22k swin_tiny.safetensors",
        ],
        config=None,
    )
    note = "a .safetensors file or index, a PyTorch file (.pth .pt .bin), or one on a hub: hf://OWNER/REPO[@REVISION][/FILE]"
    parser.add_path("source", metavar="SOURCE", hub=True, help=note)
    parser.add_path("out", metavar="OUT", help="the file to write, ending in .safetensors")
    parser.add_option("--architecture", metavar="NAME", help="the backbone; default: inferred from the shapes")
    note = "side, or HEIGHT,WIDTH, of the images the weights were trained on; needed for oblong position embeddings"
    parser.add_option("--image-size", metavar="PIXELS", help=note)
    statistics = "of the images the weights were trained on, in [0, 1]; default: the usual ones of the architecture"
    parser.add_option("--mean", metavar="R,G,B", help=f"mean {statistics}")
    parser.add_option("--std", metavar="R,G,B", help=f"standard deviation {statistics}")
    note = "which of several sets of weights in the file, for example state_dict_ema (default: not an average)"
    parser.add_option("--state", metavar="NAME", help=note)
    args = parser.parse(argv)

    from ditask_jax.conversion.importing import convert_weights
    from ditask_jax.conversion.weight_sources import channels, image_size, output_path, printable

    out = output_path(args.out, "convert", source=args.source)
    conversion = convert_weights(
        args.source,
        args.architecture,
        image_size(args.image_size, "convert"),
        channels(args.mean, "--mean"),
        channels(args.std, "--std", positive=True),
        args.state,
    )
    conversion.write(out)
    print(f"{conversion.summary()}\nwritten: {printable(str(out))}")
    return cli.OK


if __name__ == "__main__":
    cli.run(main)
