"""Measures the effect of the size of a taxonomy: a step of the search, and loading, with 52, 5,595 and 100,000 paths.

The larger ones have the shape of Google's product taxonomy (1,349 nodes of the third level below 192 of the second,
...; every node is a valid end); the largest is scaled up. All are searched with the same padded fan-out, so that only
the size differs. A step: five hypotheses for each of 32 images, from random inner nodes.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from atlas_model.model.beam_search import DeviceTrie, Normalize, next_log_probability
from atlas_model.model.decoder import AttentionDecoder
from atlas_model.taxonomy.files import load_taxonomy
from atlas_model.taxonomy.tree import SEPARATOR, CategoryPath, Taxonomy, Trie
from benchmarks.report import paired_medians, report
from benchmarks.search import taxonomy52

GOOGLE = (21, 192, 1349, 2203, 1385, 397, 48)  # nodes of each level
FAN_OUT = 80  # edges of its widest node
DECODERS = {  # attention, embedding, hidden; cells, features a cell; images
    "small": ((128, 64, 128), (49, 128), 128),
    "paper": ((512, 512, 512), (64, 2048), 32),
}
BEAM, RUNS = 5, 10


def like_google(count: int) -> list[CategoryPath]:
    """``count`` paths, one per node, with unique names."""
    draw = np.random.default_rng(1)
    sizes = [round(size * count / sum(GOOGLE)) for size in GOOGLE]
    sizes[0] = min(sizes[0], FAN_OUT)
    sizes[3] += count - sum(sizes)
    level: list[CategoryPath] = [()]
    paths: list[CategoryPath] = []
    for depth, size in enumerate(sizes):
        room = np.repeat(np.arange(len(level)), FAN_OUT - 1 if depth else size)  # and an END
        share = draw.pareto(0.7, len(level))[room] + 0.01  # some have many children, most few
        parents = draw.choice(room, size, replace=False, p=share / share.sum())
        level = [(*level[parent], f"Name {depth}-{number}") for number, parent in enumerate(np.sort(parents))]
        paths += level
    return paths


@torch.inference_mode()
def main() -> None:
    """Measure steps of both decoders, over children and over the vocabulary, and loading."""
    rows: list[tuple[str, float, str]] = []
    figures: dict[str, float] = {}
    taxonomies = {52: taxonomy52(), 5595: Taxonomy(like_google(5595)), 100_000: Taxonomy(like_google(100_000))}
    for name in DECODERS:
        # Separately, because normalising over the vocabulary evicts the CPU cache of the next variant.
        seconds = _steps(name, taxonomies, "children") | _steps(name, taxonomies, "vocabulary")
        rows += [(f"step, {name} decoder, {what}", 1000 * s, "ms") for what, s in seconds.items()]
        for paths in (5595, 100_000):
            for normalize in ("children", "vocabulary"):
                key = f"step_ratio_{paths}" + ("_small" if name == "small" else "")
                ratio = seconds[f"{normalize}, {paths} paths"] / seconds[f"{normalize}, 52 paths"]
                figures[key + ("_vocabulary" if normalize == "vocabulary" else "")] = ratio
    figures["load_100000_s"] = _load(taxonomies[100_000])
    rows += [(key, value, "s" if key.endswith("_s") else "x") for key, value in figures.items()]
    report("taxonomy", rows, figures)


def _steps(name: str, taxonomies: dict[int, Taxonomy], normalize: Normalize) -> dict[str, float]:
    (attention, embedding, hidden), (cells, features), images = DECODERS[name]
    variants = {}
    for paths, taxonomy in taxonomies.items():
        decoder = AttentionDecoder(
            len(taxonomy.tokens),
            cell_features=features,
            attention_size=attention,
            embedding_size=embedding,
            hidden_size=hidden,
            dropout=0.5,
        ).eval()
        trie = DeviceTrie.of(taxonomy.trie, torch.device("cpu"))
        memory, state = decoder.start(torch.randn(images, cells, features))
        state = state.at(torch.zeros(images, BEAM, dtype=torch.long))
        node = _inner_nodes(taxonomy.trie, images * BEAM)

        def step(  # type: ignore[no-untyped-def]  # what the loop has, bound
            decoder=decoder, trie=trie, memory=memory, state=state, node=node
        ) -> None:
            edge, valid = trie.edges(node, FAN_OUT)
            token = trie.token[edge[:, 0]].view(-1, BEAM)
            new, attention = decoder.step(memory, state, token)
            readout = decoder.readout(memory.cells, new.hidden, attention).flatten(0, 1)[None]
            next_log_probability(decoder, readout, trie.token[edge], valid, normalize=normalize, temperature=1.0)

        variants[f"{normalize}, {paths} paths"] = step
    return paired_medians(RUNS, **variants)


def _inner_nodes(trie: Trie, count: int) -> torch.Tensor:
    inner = np.flatnonzero(np.diff(trie.first))
    return torch.from_numpy(np.random.default_rng(1).choice(inner, count))


def _load(taxonomy: Taxonomy) -> float:
    """Seconds to load a taxonomy from a text file and prepare it for the search."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "taxonomy.txt"
        path.write_text("\n".join(SEPARATOR.join(names) for names in taxonomy.paths), encoding="utf-8")
        return paired_medians(3, load=lambda: load_taxonomy(path).trie)["load"]


if __name__ == "__main__":
    main()
