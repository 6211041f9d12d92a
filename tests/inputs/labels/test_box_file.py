import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.each import each

from brainray.errors import BadRequest
from brainray.inputs.labels.box_file import read_box_file

IMAGES = pa.table({"uri": ["/d/a/1.png", "/d/b/1.png", "/d/b/2.png"], "relative": ["a/1.png", "b/1.png", "b/2.png"]})


def boxes(folder, text):
    path = folder / "boxes.csv"
    path.write_text(text)
    return read_box_file(str(path))


def test_boxes_find_their_images_as_labels_do(tmp_path):
    file = boxes(
        tmp_path, "image,left,top,right,bottom\na/1.png,0.1,0.2,0.5,1\n2.png,0,0,1,1\nb/1.png,,,,\nx.png,0,0,1,1\n"
    )
    found = file.boxes_of(IMAGES)
    assert found[0].tolist() == pytest.approx([0.1, 0.2, 0.5, 1]) and found[2].tolist() == [0, 0, 1, 1]
    assert np.isnan(found[1]).all()
    assert list(file.describe(found)) == [
        "2 of 3 images have a box (--boxes)",
        "--boxes: 1 row(s) name none of these images",
    ]


def test_a_parquet_file_of_numbers_is_read(tmp_path):
    path = tmp_path / "boxes.parquet"
    pq.write_table(pa.table({"uri": ["b/2.png"], "x1": [0.25], "y1": [0.0], "x2": [0.5], "y2": [1]}), path)
    assert read_box_file(str(path)).boxes_of(IMAGES)[2].tolist() == [0.25, 0, 0.5, 1]


@each("row", ["10,20,50,80", "0.5,0.2,0.1,0.9", "0.1,0.2,0.5,", "a,b,c,d", "-0.1,0,1,1"])
def test_what_is_no_box_is_refused_with_its_image(tmp_path, row):
    with pytest.raises(BadRequest, match=r"row\(s\) have no box, as that of '2.png' \(.*shares of width and height"):
        boxes(tmp_path, f"image,left,top,right,bottom\na/1.png,0,0,1,1\n2.png,{row}\n")


def test_boxes_of_other_images_are_refused(tmp_path):
    """Else a training would go on for an hour without the boxes it was given."""
    with pytest.raises(BadRequest, match=r"no image gets a box by it"):
        boxes(tmp_path, "image,left,top,right,bottom\nz.png,0,0,1,1\n").boxes_of(IMAGES)
    with pytest.raises(BadRequest, match="has no top column"):
        boxes(tmp_path, "image,left,right,bottom\nz.png,0,0,1\n")
