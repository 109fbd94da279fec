"""The schema of params.yaml, validated as a whole.

The only module that opens params.yaml. Each section is a frozen model, named after the stage that reads it. There
are no defaults: every key is in the file, so that DVC sees every change. Only `flows.stages` and the command line use
these objects; all other code takes plain arguments.
"""

import shutil
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from atlas_model.core.encoder_names import OWN_ENCODERS
from atlas_model.core.errors import ParamsError
from atlas_model.core.files import replacing
from atlas_model.core.param_sections.quality import LabelQualityParams, SplitQualityParams
from atlas_model.core.param_sections.report import ReportParams
from atlas_model.core.param_sections.types import (
    Address,
    ColumnName,
    Cron,
    Device,
    Encoder,
    FilePath,
    ParamsSection,
    PositiveFloat,
    PositiveInt,
    Probability,
    Seed,
    Share,
    Timezone,
)
from atlas_model.core.yaml_files import parse_with_duplicates, parse_yaml, replace_text, validate

PARAMS_FILE = Path("params.yaml")
RENAMED = {("drift", "picture_sizes"): "image_sizes"}  # keys of earlier versions -> new names


class FileColumns(ParamsSection):
    """Names of the columns of a table of images; docs/files.md lists the types that they may have."""

    image: ColumnName  # paths relative to crawl.files.images; in Parquet also the image; with source "urls" URLs
    category: Annotated[list[ColumnName], Field(min_length=1)] | None  # one, or one per level; null: URLs not labelled
    product: ColumnName | None  # rows with the same value are one product; null: each row is one
    title: ColumnName | None
    price: ColumnName | None
    split: ColumnName | None  # train, val or test; used if split.respect_hint is true

    @property
    def names(self) -> dict[str, Any]:
        """The names by role, with an empty category instead of null."""
        return self.model_dump() | {"category": self.category or ()}


class FilesParams(ParamsSection):
    """A table and a folder of images, read when crawl.source is "files"; or a table of URLs, when it is "urls"."""

    table: FilePath  # .csv, .tsv, .jsonl, .parquet; the folder of images: folders are categories; .txt: a list of URLs
    images: (
        FilePath  # a folder; nothing outside it is read. If the table holds images or URLs, its path may be repeated
    )
    separator: Annotated[str, Field(min_length=1)] | None  # between the levels in one category column; null: one level
    columns: FileColumns

    @model_validator(mode="after")
    def _one_way_to_write_a_path(self) -> Self:
        if self.separator is not None and len(self.columns.category or ()) > 1:
            raise ValueError("separator is for one category column: it must be null where columns.category has several")
        return self


class CrawlParams(ParamsSection):
    """From categories of shops, a manifest, or a table of local images, to products."""

    source: Literal["demo", "shops", "manifest", "files", "urls"]
    snapshot: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$")]  # also the name of a folder
    sources: FilePath  # CSV: a Taxonomy column (A->B->C) and a column of category URLs per shop
    manifest: FilePath  # JSON of image URLs, read when source is "manifest"
    files: FilesParams
    contact: Annotated[str, Field(min_length=3)]  # address or URL, at the end of the user agent
    connect: dict[str, Address]  # host -> "address:port" in a private network; other hosts must have public addresses
    robots_tags: list[Annotated[str, Field(pattern=r"^[a-z-]+$")]]  # directives of X-Robots-Tag that exclude Atlas
    browser: Annotated[str, Field(min_length=1)] | None  # path or name of Chromium; null: the one in PATH
    max_pages_per_category: PositiveInt  # listing pages
    max_attempts: PositiveInt  # per page, the first one included
    timeout_s: PositiveFloat  # per page
    sitemaps: Literal["check", "ignore"]  # check: count products that are in a shop's sitemaps only
    max_failed_share: Probability  # the crawl fails if more product pages of a shop have transient errors
    max_coverage_drop: Probability  # the crawl fails if a shop's coverage drops by more (0.2: 80 % to 63 %)

    @model_validator(mode="after")
    def _labels_of_local_images(self) -> Self:
        if self.source == "files" and self.files.columns.category is None:
            raise ValueError("files.columns.category: expected columns, got null, which is for source: urls")
        return self

    @property
    def connect_map(self) -> dict[str, tuple[str, int]]:
        """``connect`` as HTTP clients take it: host -> (address, port)."""
        parts = {host: text.rpartition(":") for host, text in self.connect.items()}
        return {host: (address.strip("[]"), int(port)) for host, (address, _, port) in parts.items()}


class FetchParams(ParamsSection):
    """From image URLs to images."""

    concurrency: PositiveInt  # downloads at once
    concurrency_per_host: PositiveInt
    max_attempts: PositiveInt  # per image, the first one included
    timeout_s: PositiveFloat  # of one attempt, from the request to the last byte
    max_bytes: PositiveInt  # larger images are discarded (status too_large)
    max_pixels: Annotated[int, Field(gt=0, le=40_000_000)]  # likewise; at most images.MAX_PIXELS
    # Of all URLs: with more transient errors (timeouts, 5xx) the stage fails and can be run again. With source "files",
    # of all images of the table: with more unusable ones the stage fails.
    max_failed_share: Probability
    reuse: Literal["never", "validate", "always"]  # images of an earlier snapshot: download, revalidate, or use them
    obey_robots: bool  # fetch robots.txt of the images' hosts and obey it
    shard_rows: PositiveInt  # images per Parquet shard


class ZoomTrainParams(ParamsSection):
    """Training the zoomed/normal classifier."""

    labelled: FilePath  # folder of Parquet: schemas.LABELLED
    model: Literal["cnn", "linear"]  # the paper's network, or a linear layer on features of EfficientNet-Lite0
    image_size: Annotated[int, Field(ge=16, le=512)]  # px, square, for both; 150 in the paper
    batch_size: PositiveInt
    epochs: PositiveInt  # at most
    patience: PositiveInt  # epochs without a better validation loss before it stops
    lr: PositiveFloat
    val_share: Share
    test_share: Share
    seed: Seed
    device: Device

    @model_validator(mode="after")
    def _some_left(self) -> Self:
        _check_shares(self.val_share, self.test_share)
        return self


class ZoomParams(ParamsSection):
    """Scoring every image as zoomed or normal."""

    enabled: bool  # false: no filter is trained or applied; every readable image is kept
    filter: Literal["trained", "photographs"]  # the one that zoom_train trains; or the bundled one
    max_share: Annotated[float, Field(gt=0, le=1)]  # the stage fails if the filter would discard more of the images
    threshold: Probability | None  # images with at least this p_zoomed are discarded; null: chosen on validation
    batch_size: PositiveInt
    device: Device


class SplitParams(ParamsSection):
    """From products and images to train, val and test."""

    taxonomy: FilePath  # category paths, as CSV or text
    taxonomy_changes: FilePath  # CSV: categories that were renamed, merged, split or removed; a header: none were
    labels: Literal["listed", "met"]  # listed: those of the taxonomy file; met: all that occur in the split
    image_size: Annotated[int, Field(ge=16, le=1024)]  # px, square: images are stored at this size
    image_mode: Literal["L", "RGB"]
    resize: Literal["squash", "pad", "crop"]  # ignore the aspect ratio (the paper); pad with black; crop at the center
    interpolation: Literal["bilinear", "bicubic", "lanczos"]  # bicubic for EfficientNet-Lite and most of timm
    val_share: Share
    test_share: Share
    min_products: PositiveInt  # a category with fewer products is rare
    rare: Literal["drop", "train"]  # rare categories: discard (and count), or put all of it into train
    min_side: PositiveInt  # px; images with a shorter side are discarded
    max_products_per_image: PositiveInt  # images of more products are discarded: size charts, placeholders
    near_duplicate_distance: Annotated[int, Field(ge=0, le=16)]  # bits of the 64-bit perceptual hash
    respect_hint: bool  # use the split that a manifest or table gives
    quality: SplitQualityParams
    seed: Seed

    @model_validator(mode="after")
    def _some_left(self) -> Self:
        _check_shares(self.val_share, self.test_share)
        return self


class TrainParams(ParamsSection):
    """Training the encoder with its attention decoder, and the baseline classifier."""

    encoder: Encoder  # encoder_names.EncoderName, or timm/<name>
    weights: str | None  # auto, package, imagenet, a safetensors file of such a network, or null: from scratch
    fine_tune_from: str  # first trained block (layer4 of a ResNet, block14 of an EfficientNet-Lite0), all or none
    grid: Literal["native"] | PositiveInt  # cells per side that the decoder attends to; 14 in the paper
    attention_size: PositiveInt  # 512 in the paper, as the next two
    embedding_size: PositiveInt
    hidden_size: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)]
    normalize: Literal["vocabulary", "children"]  # softmax of a step: over all names (the paper), or a node's children
    deep_output: bool  # attended cells also go into the logits directly; not in the paper
    path_head: bool  # a classifier on the pooled cells adds to the decoder's logits (path_head.py)
    feature_dropout: Annotated[float, Field(ge=0, lt=1)]  # dropout of the cells' features
    title: Literal["none", "ngrams"]  # ngrams: also use the product's title, as hashed character n-grams (titles.py)
    title_buckets: Annotated[int, Field(gt=0, le=2**18)]  # number of vectors for n-grams; limit as in architecture.py
    title_size: Annotated[int, Field(gt=0, le=2**8)]  # size of such a vector; likewise
    title_strip: Probability  # share of the training titles from which the words of category names are removed
    title_drop: Annotated[float, Field(ge=0, lt=1)]  # share of a training title's words that are removed at random
    alpha_c: Annotated[float, Field(ge=0)]  # weight of the doubly stochastic attention term
    alpha_target: Literal["share", "one"]  # what each cell's attention should sum to: steps/cells, or 1 (the paper)
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]  # share of the target probability spread over all candidates
    encoder_lr: PositiveFloat
    decoder_lr: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_share: Annotated[float, Field(ge=0, lt=1)]  # of all steps; cosine decay to zero follows
    clip_norm: PositiveFloat
    batch_size: PositiveInt  # summed over the processes, if torchrun starts several
    accumulate: PositiveInt  # batches whose gradients make one step of the optimizer
    epochs: PositiveInt
    patience: PositiveInt  # epochs without a better validation path accuracy before it stops
    min_steps: Annotated[int, Field(ge=0)]  # of the optimizer; if epochs has fewer, more epochs are run
    select: Literal["micro", "macro", "both"]  # F1 on validation that selects the epoch; both: their mean
    balance: Annotated[float, Field(ge=0, le=2)]  # logit adjustment for rare categories; 0: none, 1: full
    ema: Annotated[float, Field(ge=0, lt=1)]  # decay of the moving average of the weights, which is kept; 0: none
    layer_decay: Annotated[float, Field(gt=0, le=1)]  # learning rate of a block over that of the next one
    head_epochs: Annotated[int, Field(ge=0)]  # epochs at the start with the encoder frozen
    batch_norm: Literal["trained", "frozen"]  # frozen: batch norms keep the pretrained statistics
    # If blocks are frozen (fine_tune_from), their activations are computed once, for this many views of each image:
    # the image itself, and augmented ones.
    views: Annotated[int, Field(gt=0, le=64)]
    flip: bool  # mirror half of the training images
    shift: Annotated[int, Field(ge=0)]  # px, at most, in both directions
    erase: Probability  # share of the training images of which a part is erased
    crop: Annotated[float, Field(gt=0, le=1)]  # minimum share of the area of a random crop; 1: no crops
    color: Probability  # brightness, contrast and saturation change by at most this share
    randaugment: Annotated[int, Field(ge=0, le=8)]  # number of random operations per image (RandAugment)
    seed: Seed
    device: Device
    precision: Literal["float32", "bfloat16"]  # bfloat16 is for GPUs: slower on CPUs, even with bf16 units

    @model_validator(mode="after")
    def _encoder_is_trained_or_given(self) -> Self:
        if self.encoder in OWN_ENCODERS and (self.weights is not None or self.fine_tune_from != "all"):
            raise ValueError(f"encoder {self.encoder} starts from scratch: weights must be null and fine_tune_from all")
        if self.weights is None and self.fine_tune_from != "all":
            raise ValueError("without weights the whole encoder must be trained: fine_tune_from must be all")
        return self

    @model_validator(mode="after")
    def _techniques_go_together(self) -> Self:
        augmented = self.flip or self.shift or self.erase or self.crop < 1 or self.color or self.randaugment
        if self.fine_tune_from != "all" and (self.views > 1) != bool(augmented):
            raise ValueError(
                "if blocks are frozen (fine_tune_from), views of an image are computed once: expected views above 1 "
                "together with augmentation (flip, shift, erase, crop, color, randaugment), or views 1 and none of it"
            )
        if self.fine_tune_from == "all" and self.views > 1:
            raise ValueError("views are of frozen blocks: with fine_tune_from all, views must be 1")
        if self.path_head and self.normalize != "children":
            raise ValueError("path_head adds to the logits of children: normalize must be children, or path_head false")
        if self.title != "none" and self.normalize != "children":
            raise ValueError("titles add to the logits of children: normalize must be children, or title none")
        if self.balance and self.normalize != "children":
            raise ValueError("balance adjusts the probabilities of children: normalize must be children, or balance 0")
        if self.balance and self.label_smoothing:
            raise ValueError(
                "balance and label_smoothing contradict each other: smoothing makes the adjusted probabilities even, "
                "which ranks categories without images first. One of them must be 0"
            )
        if self.head_epochs >= self.epochs and self.head_epochs:
            raise ValueError("head_epochs must be below epochs, so that the encoder is trained in some")
        return self


class EvaluateParams(ParamsSection):
    """Measuring the trained models."""

    beam: PositiveInt
    length_normalization: Annotated[float, Field(ge=0)]  # paths are ranked by log p / levels ** this; 0: by log p
    batch_size: PositiveInt
    train_sample: PositiveInt  # number of training images that are evaluated
    exact_nodes: PositiveInt  # limit of images x taxonomy nodes for exact search on a split; beyond it, a sample
    resamples: PositiveInt  # of the bootstrap for the 95 % intervals
    overlays: Annotated[int, Field(ge=0)]  # number of attention overlays
    seed: Seed
    device: Device
    engine: Literal["torch", "onnxruntime", "onnxruntime-int8", "openvino"]  # runs the encoders; see engines.py
    quality: LabelQualityParams


class PipelineParams(ParamsSection):
    """The schedule of the pipeline, and what is done with its runs."""

    cron: Cron | None  # when to crawl and run the pipeline; null: never
    timezone: Timezone  # of cron, as in "Europe/Zurich"
    retention_days: PositiveInt  # older runs, logs and artifacts are deleted from Prefect's database
    commit: bool  # after an accepted run: `dvc push` where there is a remote, then a commit and a tag
    branch: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*$")]  # of those commits
    runner: Literal["threads", "dask", "ray"]  # where fetch, zoom and evaluate process their shards in parallel
    workers: PositiveInt | None  # threads, or processes of Dask or Ray; null: one per processor


class DriftParams(ParamsSection):
    """Distances between two crawls above which drift is reported; nothing fails."""

    categories: Probability  # total variation distance between the shares of the categories
    prices: Probability  # Kolmogorov-Smirnov distance, as in the next two
    title_lengths: Probability  # in characters
    image_sizes: Probability  # in pixels
    embeddings: Probability  # energy distance between embeddings of the images by the champion's encoder
    sample: Annotated[int, Field(gt=0, le=2000)]  # number of images of each crawl that are embedded
    seed: Seed  # of the draws that estimate the distance between two samples of one distribution


class PromoteParams(ParamsSection):
    """When a new model, the challenger, replaces the champion."""

    margin: Probability  # non-inferiority margin of micro F1 (images and products), for the 95 % interval's lower end
    category_margin: Probability  # likewise for the F1 of each large category
    large_category: PositiveInt  # validation images that make a category large
    resamples: PositiveInt  # of the bootstrap for the intervals
    seed: Seed


class NotifyParams(ParamsSection):
    """Notifications of failures and promotions."""

    webhook: Annotated[str, Field(min_length=1)] | None  # URL, or $NAME of the environment variable that holds it
    on_failure: bool
    on_promotion: bool


class Params(ParamsSection):
    """All of params.yaml."""

    crawl: CrawlParams
    fetch: FetchParams
    zoom_train: ZoomTrainParams
    zoom: ZoomParams
    split: SplitParams
    train: TrainParams
    evaluate: EvaluateParams
    report: ReportParams
    pipeline: PipelineParams
    drift: DriftParams
    promote: PromoteParams
    notify: NotifyParams

    @model_validator(mode="after")
    def _encoder_takes_the_images(self) -> Self:
        if self.train.encoder in OWN_ENCODERS and self.split.image_size % 2:
            raise ValueError(
                f"train.encoder {self.train.encoder} halves its images first: split.image_size must be even"
            )
        return self


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and validate the whole file.

    A file may name another one, relative to its own folder, as its ``base``: sections that it lacks are read from
    there. A section is never merged from two files.

    Raises:
        ParamsError: the file is missing, not YAML, or not valid; the message lists all errors, each with its key,
            the value, and what is allowed.
    """
    if not path.exists():
        raise ParamsError(f"{path}: No such file. Run this in the folder of a project, which holds params.yaml")
    content, faults = parse_with_duplicates(path, ParamsError)
    if isinstance(content, dict) and "base" in content:
        base = parse_yaml(path.parent / str(content.pop("base")), ParamsError)
        content = {**base, **content} if isinstance(base, dict) else content
    for (name, key), new in RENAMED.items():
        section = content.get(name) if isinstance(content, dict) else None
        if isinstance(section, dict) and key in section and new not in section:
            faults.append(f"{name}.{key}: was renamed to {new}; rename it")
            section[new] = section.pop(key)  # one fault, and the value is still validated
    return validate(content, Params, path, ParamsError, faults)


def set_snapshot(snapshot: str, path: Path = PARAMS_FILE) -> None:
    """Set ``crawl.snapshot`` in the file; every other byte stays.

    Raises:
        ParamsError: the file is not valid, or would not be afterwards, or has ``crawl.snapshot`` in a form that cannot
            be replaced. The file is not changed then.
    """
    load_params(path)
    file = path.resolve()  # a link is kept
    expected = parse_yaml(file, ParamsError)
    with replacing(file) as temporary:
        temporary.write_bytes(replace_text(file, ("crawl", "snapshot"), snapshot, ParamsError))
        shutil.copymode(file, temporary)
        expected["crawl"]["snapshot"] = snapshot
        if parse_yaml(temporary, ParamsError) != expected:
            raise ParamsError(
                f"{path}: crawl.snapshot cannot be replaced without changing more than that. Write it as a line of its "
                "own, once, without anchors, aliases and merge keys"
            )
        load_params(temporary)


def _check_shares(val_share: float, test_share: float) -> None:
    if val_share + test_share >= 1:
        raise ValueError("val_share + test_share must be below 1, so that something is left to train on")
