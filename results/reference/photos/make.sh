#!/usr/bin/env bash
# What README.md and docs/data.md show of own photos: 201 drawn scenes and five bad files stand in for a shop's photos.
# From the repository's root, in its environment: `bash results/reference/photos/make.sh` writes build/ and results/shop.
set -euo pipefail
mlssl scenes --out build/drawn --images 100 --val-images 100 --size 160x120
mkdir -p build/shop
mv build/drawn/train2017 build/drawn/val2017 build/shop
python - <<'END'
import json
from pathlib import Path
from PIL import Image

drawn = json.loads(Path("build/drawn/annotations/instances_val2017.json").read_text())
names = {category["id"]: category["name"] for category in drawn["categories"]}
shown = {image["id"]: set() for image in drawn["images"]}
for box in drawn["annotations"]:
    shown[box["image_id"]].add(names[box["category_id"]])
lines = [f"val2017/{image['file_name']},{';'.join(sorted(shown[image['id']]))}\n" for image in drawn["images"]]
Path("build/shop.csv").write_text("".join(lines))

shop = Path("build/shop")
Image.open(shop / "train2017/000000000001.jpg").rotate(90, expand=True).save(shop / "upright.jpg")
(shop / "cut.jpg").write_bytes((shop / "train2017/000000000002.jpg").read_bytes()[:2000])
(shop / "empty.jpg").touch()
(shop / "text.png").write_text("no image")
Image.new("RGB", (1, 5000)).save(shop / "strip.png")
Image.new("1", (30_000, 30_000)).save(shop / "giant.png")
END
mlssl import --photos build/shop --out build/mine --labels build/shop.csv
mlssl run results/reference/photos/shop.yaml --cores 1
