"""Records of reviews: what people decided about categories and close-ups, one JSON Lines file per reviewer.

A record is never changed: a later one of the same reviewer replaces it, and an `Undo` withdraws it. docs/review.md
describes the format. The files are in git and may come from other people, so each line is validated.

Which decision counts if there are several is decided in `decisions`. Knows nothing of products and models.
"""

import fcntl
import io
import json
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from atlas_model.core.errors import AtlasError, InputError
from atlas_model.core.files import make_folder, replacing, sync_directory
from atlas_model.core.progress import say
from atlas_model.data.images import decode, probe

VERSION: Literal[1] = 1
IMAGES_FOLDER = "images"  # in the folder of reviews: the images of close-up decisions
MAX_LINE_BYTES = 65_536
MAX_IMAGE_BYTES = 100_000  # larger images are stored at a reduced size
STORED_SIDE = 512  # px, longer side of a reduced image
CHECKSUM = re.compile(rb', "crc32": "([0-9a-f]{8})"\}$')  # at the end of a line: of the record without this field
MAX_FAULTS = 20  # listed in a message
SERVICE = "service"  # the order of feedback, which `atlas serve` stores: a suggestion, not a vote
REVIEWER = re.compile(r"\w[\w.-]{0,63}")  # also the name of a file

Reviewer = Annotated[str, Field(pattern=rf"^{REVIEWER.pattern}$")]
RecordId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
ImageId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]  # a SHA-256; also the name of a file
Text = Annotated[str, Field(min_length=1, max_length=2048)]
Path_ = tuple[Text, ...]
Probability = Annotated[float, Field(ge=0, le=1)]


class _Line(BaseModel):
    """What all records have."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = VERSION
    id: RecordId  # chosen by who decides, so that a request that is sent twice is stored once
    at: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]  # UTC
    reviewer: Reviewer


class Shown(BaseModel):
    """What the reviewer saw. For statistics; it has no effect on the pipeline."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    label: Path_ | None = None  # the label at that time, or normal or zoomed
    predicted: Path_ | None = None  # the preselected answer
    probability: Probability | None = None  # of that answer
    order: Annotated[str, Field(pattern=r"^[a-z]{1,20}$")] | None = None  # of the queue; or `SERVICE`
    keys: Annotated[int, Field(ge=0, le=10_000)] | None = None  # keys, clicks and touches since it was shown
    seconds: Annotated[float, Field(ge=0, le=1e6)] | None = None  # since it was shown


class CategoryDecision(_Line):
    """The category of a product, for all its images."""

    kind: Literal["category"] = "category"
    product_id: Text
    image_id: ImageId | None = None  # the image that was shown
    answer: Literal["category", "none", "unsure"]  # none: no category of the taxonomy fits
    category: Path_ | None = None  # only if the answer is category
    shown: Shown | None = None

    @model_validator(mode="after")
    def _category_if_answered(self) -> Self:
        if bool(self.category) != (self.answer == "category"):
            raise ValueError("category is expected if the answer is category, and only then")
        return self

    @property
    def subject(self) -> str:
        """What is decided about."""
        return self.product_id


class ZoomDecision(_Line):
    """Whether an image is a close-up."""

    kind: Literal["zoom"] = "zoom"
    image_id: ImageId
    product_id: Text
    answer: Literal["normal", "zoomed", "unsure"]
    shown: Shown | None = None

    @property
    def subject(self) -> str:
        """What is decided about."""
        return self.image_id


class Undo(_Line):
    """Withdraws an earlier record of the same reviewer."""

    kind: Literal["undo"] = "undo"
    undoes: RecordId


Decision = CategoryDecision | ZoomDecision
Record = Annotated[CategoryDecision | ZoomDecision | Undo, Field(discriminator="kind")]
RECORD: TypeAdapter[Decision | Undo] = TypeAdapter(Record)


@dataclass(frozen=True)
class Reviews:
    """All records of a folder."""

    records: list[Decision | Undo]  # by time
    torn: list[Path]  # files whose last line is incomplete; that line was never confirmed to its reviewer

    @property
    def reviewers(self) -> list[str]:
        """Names of the reviewers, sorted."""
        return sorted({record.reviewer for record in self.records})

    def warnings(self) -> list[str]:
        """A message for each incomplete last line."""
        why = "its last line is incomplete and is ignored: a review was stopped while it was written"
        return [f"warning: {path}: {why}" for path in self.torn]


def now() -> str:
    """The current time in the format of the records."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def reviewer_name(text: str) -> str:
    """``text`` as the name of a reviewer: spaces become hyphens.

    Raises:
        InputError: it has other characters than letters, digits, ``_``, ``.`` and ``-``, or more than 64.
    """
    name = "-".join(text.split())
    if not REVIEWER.fullmatch(name) or len(name.encode()) > 200:
        raise InputError(
            f"reviewer: expected a name of at most 64 letters, digits, _ . and -, that starts with a letter or digit; "
            f"got {text[:80]!r}"
        )
    return name


def file_of(folder: Path, reviewer: str) -> Path:
    """The file with the records of ``reviewer``."""
    return folder / f"{reviewer}.jsonl"


def read_reviews(folder: Path) -> Reviews:
    """Read all records in ``folder``, which need not exist.

    A line that occurs twice, as after a merge in git, counts once. An incomplete last line, which a killed process
    leaves, is reported and ignored.

    Raises:
        InputError: lines are invalid; the message lists them.
    """
    faults: list[str] = []
    records: dict[str, Decision | Undo] = {}
    torn: list[Path] = []
    for path in sorted(folder.glob("*.jsonl")):
        found, is_torn = _read_file(path, faults)
        torn += [path] * is_torn
        for record in found:
            if records.setdefault(record.id, record) != record:
                faults.append(f"{path}: two different records have the id {record.id}")
    for record in records.values():
        if isinstance(record, Undo):
            undone = records.get(record.undoes)
            if undone is None or undone.reviewer != record.reviewer:
                faults.append(f"{record.reviewer}.jsonl: {record.id} undoes {record.undoes}, which is not in this file")
    if faults:
        more = [f"and {len(faults) - MAX_FAULTS} more"] if len(faults) > MAX_FAULTS else []
        raise InputError.from_faults(
            f"{folder}: expected records of reviews (docs/review.md)", faults[:MAX_FAULTS] + more
        )
    return Reviews(sorted(records.values(), key=lambda record: record.at), torn)


def damaged_lines(path: Path) -> list[int]:
    """Numbers of the lines of a reviewer's file that are not records, or not those of their checksums."""
    lines = path.read_bytes().split(b"\n")
    return [number for number, line in enumerate(lines, start=1) if line.strip() and isinstance(_parse(line), str)]


def append_record(folder: Path, record: Decision | Undo) -> None:
    """Add ``record`` to its reviewer's file and sync it to disk; several processes may do so at once.

    Raises:
        AtlasError: it could not be stored; the file is as before.
    """
    line = _line_of(record)
    assert len(line) <= MAX_LINE_BYTES, "the fields are shorter"
    path = file_of(folder, record.reviewer)
    try:
        make_folder(folder)
        with path.open("ab+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = _end_of_records(path, file)
            try:
                written = file.write(line)
                if written != len(line):
                    raise OSError(f"{written} of {len(line)} bytes were written")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
        if end == 0:
            sync_directory(folder)
    except OSError as error:
        raise AtlasError(
            f"{path}: the decision could not be stored: {error}. Free disk space, or check its rights"
        ) from error


def store_image(folder: Path, image_id: str, data: bytes) -> None:
    """Store the bytes of an image for `zoom_train`, which then needs no crawl; large images at a reduced size.

    Raises:
        ImageError: it cannot be decoded.
        AtlasError: it could not be stored.
    """
    if stored_image(folder, image_id) is not None:
        return
    suffix = probe(data).format.lower()
    if len(data) > MAX_IMAGE_BYTES:
        image = decode(data, side=STORED_SIDE)
        image.thumbnail((STORED_SIDE, STORED_SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=92)
        data, suffix = buffer.getvalue(), "jpeg"
    path = folder / IMAGES_FOLDER / f"{image_id}.{suffix}"
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise AtlasError(f"{path}: the image could not be stored: {error}") from error


def stored_image(folder: Path, image_id: str) -> bytes | None:
    """The bytes that `store_image` stored."""
    found = sorted((folder / IMAGES_FOLDER).glob(f"{image_id}.*"))
    return found[0].read_bytes() if found else None


def _line_of(record: Decision | Undo) -> bytes:
    text = json.dumps(record.model_dump(mode="json", exclude_none=True), ensure_ascii=False).encode()
    return text[:-1] + b', "crc32": "%08x"}\n' % zlib.crc32(text)


def _read_file(path: Path, faults: list[str]) -> tuple[list[Decision | Undo], bool]:
    """The records of a file, and whether its last line is incomplete."""
    lines = path.read_bytes().split(b"\n")
    found: list[Decision | Undo] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _parse(line)
        if isinstance(record, str):
            if is_torn(line, is_last=not b"".join(lines[number:]), has_end=number < len(lines)):
                return found, True
            faults.append(f"{path.name}, line {number}: {record}")
        elif record.reviewer != path.stem:
            faults.append(f"{path.name}, line {number}: expected the reviewer {path.stem}, got {record.reviewer}")
        else:
            found.append(record)
    return found, False


def is_torn(line: bytes, *, is_last: bool, has_end: bool) -> bool:
    """Whether an invalid ``line`` was left by a process or a computer that stopped while it wrote, not by damage.

    After a power failure the line may have its end, but zeros instead of its begin. Its writer had not confirmed it.

    Args:
        line: without its end.
        is_last: of the file.
        has_end: whether a newline follows.
    """
    return is_last and (line.startswith(b"\0") or (not has_end and CHECKSUM.search(line[:-1]) is None))


def _parse(line: bytes) -> Decision | Undo | str:
    """The record in a line, or what is wrong with it."""
    if len(line) > MAX_LINE_BYTES:
        return f"expected at most {MAX_LINE_BYTES} bytes, got {len(line)}"
    line = line.removesuffix(b"\r")  # git on Windows may have added it
    if checksum := CHECKSUM.search(line):
        line = line[: checksum.start()] + b"}"
        if zlib.crc32(line) != int(checksum[1], 16):
            return (
                "damaged: its content is not that of its checksum. Restore the line from git, or, if you changed it, "
                "remove the field crc32"
            )
    try:
        return RECORD.validate_json(line)
    except ValidationError as error:
        return _described(error.errors(include_url=False, include_context=False))


def _described(errors: Sequence[object]) -> str:
    first = errors[0]
    assert isinstance(first, dict)
    place = ".".join(map(str, first["loc"]))
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{place}: {first['msg']}{more}" if place else f"{first['msg']}{more}"


def _end_of_records(path: Path, file: io.FileIO) -> int:
    """Where the next record begins; an incomplete last line, which was never confirmed, is removed."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return 0
    start = max(0, size - MAX_LINE_BYTES - 1)
    file.seek(start)
    tail = file.read(size - start)
    assert tail is not None
    has_end = tail.endswith(b"\n")
    text = tail.removesuffix(b"\n")
    begin = start + text.rfind(b"\n") + 1
    last = text[text.rfind(b"\n") + 1 :]
    if has_end and not last.startswith(b"\0"):
        return size
    if isinstance(_parse(last), str):
        if not is_torn(last, is_last=True, has_end=has_end):
            raise AtlasError(f"{path}: expected a record in its last line, got damage. Restore the line from git")
        say(f"warning: {path}: removed an incomplete last line of {len(last)} bytes, left by a review that was stopped")
        file.truncate(begin)
        return begin
    file.write(b"\n")
    return size + 1
