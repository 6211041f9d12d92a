from support.each import each

from brainray.inputs.class_names import ClassLookup, class_name, class_of_folders, label_from_folders

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


@each(
    ("spelling", "name"),
    [
        ("no_tumor", "notumor"),
        ("No Tumor", "notumor"),
        ("healthy", "notumor"),
        ("normal", "notumor"),
        ("glioma_tumor", "glioma"),
        ("Meningioma", "meningioma"),
        ("pituitary-tumour", "pituitary"),
        ("Metastasis", "Metastasis"),
        (" schwannoma ", "schwannoma"),
    ],
)
def test_known_spellings_fold_and_others_stay(spelling, name):
    assert class_name(spelling) == name


def test_a_models_own_spelling_is_kept():
    lookup = ClassLookup(("no tumor", "Glioma"))
    assert lookup.find("healthy") == "no tumor"
    assert lookup.find("glioma_tumor") == "Glioma"
    assert lookup.find("dog") is None


def test_nearest_folder_gives_the_label():
    lookup = ClassLookup(CLASSES)
    assert label_from_folders(("normal", "2024", "glioma", "patient 7"), lookup) == "glioma"
    assert label_from_folders(("2024", "patient 7"), lookup) is None
    assert label_from_folders((), lookup) is None


def test_training_classes_are_found_below_the_folders_of_a_published_split():
    assert class_of_folders(("Training", "no_tumor")) == "notumor"
    assert class_of_folders(("Testing", "cats", "black")) == "cats"
    assert class_of_folders(("glioma", "patient 7")) == "glioma"
    assert class_of_folders(("train",)) is None
    assert class_of_folders(()) is None


@each(
    ("folders", "label"),
    [
        (("split=train", "label=glioma"), "glioma"),
        (("Class=no%20tumor", "part=1"), "notumor"),
        (("diagnosis=pituitary%5Ftumor",), "pituitary"),
        (("label=glioma", "site=normal"), "glioma"),
        (("label=__HIVE_DEFAULT_PARTITION__",), None),
    ],
)
def test_hive_partitions_label_by_their_value(folders, label):
    assert label_from_folders(folders, ClassLookup(CLASSES)) == label
    assert class_of_folders(folders) == label


def test_hive_partitions_name_new_classes():
    assert class_of_folders(("site=A", "split=train", "label=grade%20IV")) == "grade IV"
    assert class_of_folders(("split=train", "grade=4")) == "grade=4"
