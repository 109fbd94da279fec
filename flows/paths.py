"""Paths of the files of the stages, relative to the root of the project. A test compares them with dvc.yaml."""

from pathlib import Path

PRODUCTS = Path("data/raw/products.parquet")
SHARDS = Path("data/images/shards")
REFS = Path("data/images/refs.parquet")
REVIEWS = Path("data/reviews")  # decisions of people, an input
ZOOM_MODEL = Path("models/zoom")
SCORES = Path("data/zoom/scores.parquet")
SPLITS = Path("data/splits")
TAXONOMY = SPLITS / "taxonomy.json"
CATEGORIZER = Path("models/categorizer")
BASELINE = Path("models/baseline")
REPORTS = Path("reports")  # <stage>/metrics.json: all metrics of a stage, tracked by DVC
EVALUATION = REPORTS / "evaluate"
DISCARDED = REPORTS / "split/discarded.parquet"
CHAMPION = Path("models/champion")
CHAMPIONS = Path("models/champions.json")  # in git
LOCK_FILE = Path("dvc.lock")  # in git: DVC's record of the last run of each stage
REPORT = REPORTS / "report.html"
CARDS = REPORTS / "cards"  # model/README.md, data/README.md

METRICS = Path("metrics")  # <stage>.json: the headline metrics, tracked by git
PLOTS = Path("plots")  # <stage>/, tracked by DVC; plots/crawl and plots/split, which are counts, by git
TIMINGS = REPORTS / "timings"  # <stage>.json: of the last run on this machine; not tracked
WORK = Path(".atlas")  # downloads in progress and checkpoints, from which runs resume: not tracked, safe to delete
SNAPSHOTS = WORK / "snapshots"  # <snapshot>.parquet: copies of PRODUCTS
