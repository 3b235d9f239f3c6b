"""Label files as tools export them: read as unpacked, or refused with what they are."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.labels import PHOTOS, ROW, coco, found, picture, voc, write

from mlssl.cli import main
from mlssl.errors import DataError
from mlssl.photos.labels import read_labels

FOLDERS = {
    "notes beside YOLO": {
        "classes.txt": "cup\n",
        "a.txt": ROW,
        "train.txt": "images/a.jpg\n",
        "notes.txt": "hi you\n",
    },
    "requirements beside XML": {"a.xml": voc(), "requirements.txt": "torch>=2\nnumpy\n"},
    "captions beside XML": {"a.xml": voc(), "a.txt": "a cup on a table\n"},
    "VOC's root": {
        "Annotations/a.xml": voc(),
        "ImageSets/Main/train.txt": "a\n",
        "ImageSets/Main/cup_train.txt": "a  1\n",
    },
    "Roboflow's YOLO": {
        "data.yaml": "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['cup']\nroboflow: {}\n",
        "README.roboflow.txt": "made with\n",
        "train/labels/a.txt": ROW,
        "valid/labels/c.txt": "",
        "train/images/.keep": "",
        "valid/images/.keep": "",
    },
    "Ultralytics' YOLO, another name": {
        "shop8.yml": "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cup\n",
        "labels/train/a.txt": ROW,
        "labels.cache": b"\x00\x01",
    },
    "CVAT's YOLO": {
        "obj.names": "cup\n",
        "obj.data": "classes = 1\ntrain = data/train.txt\n",
        "train.txt": "data/obj_train_data/a.jpg\n",
        "obj_train_data/a.txt": ROW,
    },
    "Label Studio's YOLO": {
        "classes.txt": "cup",
        "labels/a.txt": ROW,
        "notes.json": json.dumps({"categories": [{"id": 0, "name": "cup"}], "info": {"year": 2024}}),
    },
    "Roboflow's COCO": {
        "train/_annotations.coco.json": coco("a.jpg"),
        "valid/_annotations.coco.json": coco("c.jpg"),
        "README.txt": "made with\n",
    },
    "COCO's annotations": {
        "instances_train.json": coco("a.jpg"),
        "captions_train.json": '{"images": [], "annotations": [{"image_id": 1, "id": 2, "caption": "a cup"}]}',
        "person_keypoints_train.json": coco("a.jpg", "person").replace('"name"', '"keypoints": ["nose"], "name"'),
    },
    "VOC with the photo's suffix": {"a.jpg.xml": voc(), "c.jpg.xml": voc()},
    "YOLO with the photo's suffix": {"classes.txt": "cup", "labels/a.jpg.txt": ROW, "labels/c.JPG.txt": ""},
    "VOC with CVAT's own XML": {
        "a.xml": voc(),
        "annotations.xml": "<annotations><version>1.1</version></annotations>",
    },
    "hidden and checkpoints": {
        "a.xml": voc(),
        ".a.txt": ROW,
        ".ipynb_checkpoints/c.txt": ROW,
        "__MACOSX/._a.xml": "x",
    },
}


@pytest.mark.parametrize("case", FOLDERS)
def test_an_export_is_read_as_unpacked(tmp_path, case):
    labels = read_labels(write(tmp_path, FOLDERS[case]), PHOTOS)
    assert found(labels)["shop/a.jpg"] == ["cup"]
    assert not labels.missing
    unread = {
        "notes beside YOLO": "2 text files are not labels: notes.txt, train.txt",
        "captions beside XML": "1 text file is not labels: a.txt",
        "VOC with CVAT's own XML": "annotations.xml: this is CVAT's XML, not read",
        "COCO's annotations": "captions_train.json: this is COCO's JSON of captions, not read",
    }
    if case in unread:
        assert unread[case] in labels.notes


FOREIGN = {
    "a.xml": [("<?xml version='1.0'?><!-- x --><annotations><image id='0'/></annotations>", "CVAT's XML")],
    "b.xml": [
        (
            "<annotation><object><name>cup</name><polygon><pt><x>1</x></pt></polygon></object></annotation>",
            "LabelMe",
        )
    ],
    "c.xml": [("<annotation><object><robndbox><cx>1</cx></robndbox></object></annotation>", "roLabelImg")],
    "d.xml": [("<dataset><images/></dataset>", "dlib"), ("<rss/>", "XML with the root <rss>")],
    "e.json": [
        ('{"version": "5.0", "shapes": [{"label": "cup"}], "imagePath": "a.jpg"}', "labelme's JSON"),
        ('[{"id": 1, "annotations": [{"result": [{"from_name": "label"}]}]}]', "Label Studio's JSON"),
        ('[{"image": "a.jpg", "annotations": [{"label": "cup", "coordinates": {"x": 1}}]}]', "Create ML's JSON"),
        ('{"a.jpg1": {"filename": "a.jpg", "regions": [{"shape_attributes": {}}]}}', "VIA's JSON"),
        ('{"classes": ["cup"], "labels": {"a": 0}}', "FiftyOne's JSON of image labels"),
        ('{"file_name": "a.jpg", "text": "cup"}\n{"file_name": "c.jpg"}\n', "JSON lines"),
        ('{"objects": [{"classTitle": "cup"}]}', "Supervisely's JSON"),
        ('{"images": [], "annotations": [{"segments_info": []}], "categories": []}', "panoptic"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]', "detection results"),
    ],
    "f.csv": [
        ("filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,9,9,cup,1,1,2,2\n", "TensorFlow"),
        ("ImageID,Source,LabelName,Confidence\na,xclick,/m/0,1\n", "Open Images"),
        ("filename,file_size,file_attributes,region_count\n", "VIA's CSV"),
    ],
    "g.xlsx": [(b"PK\x03\x04rest", "a ZIP archive or Excel workbook")],
    "h.csv": [(b"PAR1rest", "a Parquet table"), (b"\x1f\x8brest", "a gzip archive")],
}


@pytest.mark.parametrize(("name", "text", "kind"), [(n, *case) for n, cases in FOREIGN.items() for case in cases])
def test_files_of_other_tools_are_refused_with_what_they_are(tmp_path, name, text, kind):
    write(tmp_path, {name: text})
    paths = [tmp_path / name] + ([tmp_path] if name.endswith(("xml", "json")) else [])
    for path in paths:
        with pytest.raises(DataError, match=f"{name}: this is .*{kind}.*export VOC, YOLO or COCO"):
            read_labels(path, PHOTOS)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.xml": voc(), "b.txt": ROW}, r"both VOC XML \(a\.xml\) and YOLO txt \(b\.txt\); give the folder"),
        ({"x.json": coco("a.jpg"), "a.xml": voc()}, r"both VOC XML \(a\.xml\) and COCO JSON \(x\.json\)"),
        (
            {"one.json": coco("a.jpg"), "two.json": coco("c.jpg", id_=4)},
            "category 'cup' has id 4, .* gives it id 1",
        ),
        ({"broken.json": '{"images": ['}, r"broken\.json: not valid JSON"),
        ({"other.json": "{}"}, r"other\.json: key 'images' is missing"),
        ({"labels.csv": "a.jpg,cup\n"}, r"or did you mean .*labels\.csv\?"),
        ({"a.npz": "", "b.npz": "", "x.jpg": ""}, r"neither XML nor txt .*; it has 2 \.npz \(a\.npz\)"),
        ({"a.txt": ROW}, "no classes.txt or data.yaml"),
        ({"classes.txt": "cup\n\nmug\n", "a.txt": ROW}, "line 2 is empty"),
        ({"a.yaml": "names: [x]", "b.yaml": "names: [y]", "a.txt": ROW}, "lists other class names"),
        ({"data.yaml": "names: {0: x, 0: y}", "a.txt": ROW}, "key '0' is given twice"),
        ({"data.yaml": "names: {x: 0}", "a.txt": ROW}, "'x' is not the id of one class"),
        ({"data.yaml": "names: [x, x]", "a.txt": ROW}, "two classes have the same name"),
        ({"data.yaml": "names: [x]\nkpt_shape: 17", "a.txt": ROW}, "kpt_shape is 17; give"),
        ({"data.yaml": "nc: 3", "a.txt": ROW}, "lists no class names"),
        ({"classes.txt": "cup", "a.txt": "Car 0.0 0 -1.5 1 2 3 4 1 1 1 1 1 1 0.1"}, "line 1: this is KITTI's txt"),
        ({"classes.txt": "cup", "a.txt": "imagesource:GoogleEarth\n"}, "this is DOTA's txt"),
        ({"classes.txt": "cup", "a.txt": "1.0 2.0 3.0 4.0 5.0 6.0 7.0 8.0 plane 0"}, "this is DOTA's txt"),
    ],
)
def test_what_is_ambiguous_or_broken_is_refused_with_its_file(tmp_path, files, message):
    with pytest.raises(DataError, match=message) as refused:
        read_labels(write(tmp_path, files), PHOTOS)
    assert str(tmp_path) in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"a.xml": "<annotations/>"}, "this is CVAT's XML"),
        ({"classes.txt": "cup", "0.txt": ROW + " 0.9 1"}, "box with score and id"),
        ({"0.xml": voc(said="1.jpg", size=("64", "48"))}, "its filename is that of '1.jpg'"),
    ],
)
def test_the_command_refuses_in_one_sentence_and_leaves_nothing(tmp_path, capsys, monkeypatch, labels, message):
    write(tmp_path / "labels", labels)
    (tmp_path / "in").mkdir()
    for i in range(2):
        picture(i).save(tmp_path / "in" / f"{i}.jpg")
    out = tmp_path / "out"
    options = [f"--photos={tmp_path / 'in'}", f"--out={out}", f"--labels={tmp_path / 'labels'}"]
    monkeypatch.setattr("sys.argv", ["mlssl", "import", *options])
    assert main() == 1
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not out.exists()
    assert not list(tmp_path.glob(".out.part*"))


WORDS = (
    "a.jpg 0 0.5 1 , ; { [ ] } : names path <annotation> </annotation> <object> &a *a names: sep= train: ../x - é"
)
PIECES = st.sampled_from([*WORDS.split(" "), " ", "\t", "\n", "\r", '"', "\\0", "\ufeff", "\0"])
TEXTS = st.one_of(
    st.binary(max_size=40), st.lists(PIECES, max_size=30).map(lambda pieces: "".join(pieces).encode())
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["a.csv", "a.txt", "classes.txt", "data.yaml", "a.xml", "a.json", "a.tsv"]), TEXTS, TEXTS)
def test_any_file_of_labels_is_read_or_refused_in_one_sentence(tmp_path_factory, name, content, other):
    folder = write(tmp_path_factory.mktemp("any"), {"classes.txt": "cup", "a.txt": other, name: content})
    for path in (folder, folder / name):
        try:
            labels = read_labels(path, PHOTOS)
        except DataError as error:
            assert str(error).startswith(str(folder))  # noqa: PT017 (either outcome is right)
        else:
            assert labels.photos.keys() <= set(PHOTOS)
