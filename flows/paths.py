"""Where the stages keep their files, relative to the project's root. dvc.yaml says the same; a test compares."""

from pathlib import Path

PRODUCTS = Path("data/raw/products.parquet")
SHARDS = Path("data/images/shards")
REFS = Path("data/images/refs.parquet")
ZOOM_MODEL = Path("models/zoom")
SCORES = Path("data/zoom/scores.parquet")
SPLITS = Path("data/splits")
TAXONOMY = SPLITS / "taxonomy.json"
CATEGORIZER = Path("models/categorizer")
BASELINE = Path("models/baseline")
REPORTS = Path("reports")  # <stage>/metrics.json: all that the stage measured, in DVC
EVALUATION = REPORTS / "evaluate"

METRICS = Path("metrics")  # <stage>.json: the headline figures, in git
PLOTS = Path("plots")  # <stage>/, in DVC; plots/crawl and plots/split, which are counts, in git
TIMINGS = REPORTS / "timings"  # <stage>.json: of the last run on this machine; neither in git nor in DVC
WORK = Path(".atlas")  # spools and checkpoints: untracked, safe to delete, makes reruns resume
SNAPSHOTS = WORK / "snapshots"  # <snapshot>.parquet: copies of PRODUCTS
