"""`atlas predict`."""

from pathlib import Path
from typing import Any

from flows.cli.arguments.types import accuracy, positive, probability


def add(commands: Any) -> None:
    """Add the subcommands."""
    predict = commands.add_parser(
        "predict",
        help="predict the category paths of images",
        description="Predict category paths of the taxonomy, with probabilities: for named images, on stdout; for many "
        "images (--input), in a Parquet file.",
    )
    predict.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="files and folders; without any, or with -, paths are read from stdin, one per line",
    )
    predict.add_argument(
        "--model",
        metavar="DIR",
        help="folder of the model, or pretrained: the bundled model; default: the champion, else the last trained "
        "model, else the bundled model",
    )
    predict.add_argument("--beam", type=positive, default=5, metavar="K", help="width of the beam search (default: 5)")
    predict.add_argument("--top", type=positive, default=1, metavar="N", help="category paths per image (default: 1)")
    predict.add_argument(
        "--attention", type=Path, metavar="OUT.png", help="draw the attention of the decoder (one image)"
    )
    predict.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object per image")
    predict.add_argument(
        "--product", action="store_true", help="all images show one product: one prediction for all of them"
    )
    predict.add_argument(
        "--title",
        metavar="TEXT",
        help="title of the product that the images show, for a model trained with titles. Without images, the "
        "prediction is from the title alone. With --input, titles come from the column title instead",
    )
    predict.add_argument(
        "--min-confidence",
        type=probability,
        metavar="P",
        help="predict the deepest category with at least this probability (0 to 1); if there is none, 'not sure'",
    )
    predict.add_argument(
        "--accuracy",
        type=accuracy,
        metavar="A",
        help="predict the deepest category with a guaranteed accuracy of at least A (for example 0.95), measured on "
        "the held-out products of the model. Adds a band: accept (a whole category path), review (its first levels) "
        "or no answer",
    )
    predict.add_argument(
        "--engine",
        choices=("auto", "torch", "onnxruntime", "onnxruntime-int8", "openvino"),
        default="auto",
        help="library that runs the encoder; auto (default): torch for few images, else the fastest one installed, "
        "which is measured once per machine",
    )
    predict.add_argument(
        "--input",
        type=Path,
        metavar="FROM",
        dest="given",
        help="many images: a folder, or a Parquet file (or a folder of them) with the columns image_id and bytes, or "
        "the column image; and the column title, if the model reads titles. Needs --output",
    )
    predict.add_argument(
        "--output",
        type=Path,
        metavar="OUT.parquet",
        help="file for the predictions of --input. After an interruption, the same command resumes",
    )
    predict.add_argument(
        "--products",
        type=Path,
        metavar="OUT.parquet",
        help="with --input: file for one prediction per product. The product of an image is in the column product_id, "
        "or is the folder of the image",
    )
    predict.add_argument(
        "--batch-size", type=positive, default=64, metavar="N", help="images per batch of --input (default: 64)"
    )
    predict.set_defaults(command=run_predict)


def run_predict(
    given: Path | None, output: Path | None, *, products: Path | None, batch_size: int, **options: Any
) -> int:
    """Predict named images on stdout; if a file is among the arguments, the images of ``given`` into ``output``."""
    import gc

    gc.disable()  # garbage collection during the imports takes a tenth of the start
    from flows.cli.predict import predict

    gc.enable()
    if given is None and output is None and products is None:
        return predict(**options)
    from flows.cli.predict_file import predict_file

    return predict_file(given, output, products=products, batch_size=batch_size, **options)
