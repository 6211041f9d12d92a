"""What is left out of NIfTI, by name, side file, intent code and voxels; and what the columns say."""

from support.each import each

from brainray.imaging.nifti.facts import SliceFacts, describe

PLAIN = {
    "window": (0.0, 900.0),
    "spacing": (1.0, 1.0),
    "plane": "axial",
    "intent": 0,
    "volumes": 1,
    "values": 900,
    "whole_numbers": True,
    "flat": 0.02,
    "below_zero": 0.0,
    "lowest": 0.0,
    "name": "vol",
    "sidecar": {},
    "cut": False,
}


def told(**known):
    facts, excluded = describe(SliceFacts.of(PLAIN | known))
    return facts, excluded.reason if excluded else None


@each(
    ("name", "reason", "sequence"),
    [
        ("sub-1_T1w", None, "T1"),
        ("sub-1_ses-2_acq-mprage_run-1_T1w", None, "T1"),
        ("sub-1_FLAIR", None, "FLAIR"),
        ("sub-1_t2W", None, "T2"),
        ("sub-1_dwi", "diffusion", None),
        ("sub-1_task-rest_bold", "functional", None),
        ("sub-1_asl", "functional", None),
        ("sub-1_phasediff", "map", None),
        ("sub-1_T1map", "map", "T1"),
        ("sub-1_part-phase_T2starw", "map", "T2*"),
        ("sub-1_space-MNI_dseg", "label_map", None),
        ("sub-1_desc-brain_mask", "label_map", None),
        ("sub-1_label-GM_probseg", "map", None),
        ("sub-1_contrast-x_stat-z_statmap", "map", None),
        ("sub-1_desc-zstat1_T1w", "map", "T1"),
        ("sub-1_swi", "susceptibility", "T2*"),
        ("sub-1_pet", "not_mr", None),
        ("vol_dwi", None, None),
        ("BraTS_001_t1ce", None, "T1"),
        ("BraTS_001_flair", None, "FLAIR"),
    ],
)
def test_names_of_bids_exclude_and_other_names_only_tell(name, reason, sequence):
    facts, excluded = told(name=name)
    assert (excluded, facts.sequence) == (reason, sequence)
    assert (facts.likely == reason) or (name == "vol_dwi" and facts.likely == "diffusion")
    assert (facts.modality is not None) == (name.startswith("sub-"))


@each(("intent", "reason"), [(0, None), (2, "map"), (24, "map"), (1001, "map"), (1002, "label_map"), (1007, "map")])
def test_intent_codes_of_statistics_and_labels_exclude(intent, reason):
    assert told(intent=intent)[1] == reason


@each(
    ("voxels", "reason"),
    [
        ({"values": 2}, "label_map"),
        ({"values": 16}, "label_map"),
        ({"values": 200, "flat": 0.9}, "label_map"),
        ({"values": 200, "flat": 0.2}, None),
        ({"values": 12, "whole_numbers": False}, None),
        ({"values": 2, "window": None}, None),
    ],
)
def test_few_whole_numbers_or_flat_ones_are_a_mask(voxels, reason):
    assert told(**voxels)[1] == reason


@each(
    ("known", "likely"),
    [
        ({"below_zero": 0.4, "whole_numbers": False}, "map"),
        ({"lowest": -1024.0}, "not_mr"),
        ({"volumes": 200}, "functional"),
        ({"volumes": 4}, None),
        ({"name": "a_localizer"}, "localizer"),
    ],
)
def test_what_is_only_likely_is_told_and_scored(known, likely):
    facts, excluded = told(**known)
    assert (facts.likely, excluded) == (likely, None)


def test_a_side_file_tells_the_scanner_and_excludes_by_its_image_type():
    sidecar = {
        "Manufacturer": "SIEMENS Healthineers",
        "MagneticFieldStrength": "2.89",
        "Modality": "MR",
        "ProtocolName": "t2_tse_tra",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
    }
    facts, excluded = told(sidecar=sidecar)
    assert (facts.vendor, facts.field_t, facts.modality, facts.sequence) == ("Siemens", 3.0, "MR", "T2")
    assert excluded is None
    assert told(sidecar=sidecar | {"ImageType": ["DERIVED", "PRIMARY", "ADC"]})[1] == "map"
    assert told(sidecar=sidecar | {"Modality": "CT"})[1] == "not_mr"


@each("value", [None, [], {}, "Jane Doe", float("nan"), 1e400, [["x"]], True])
def test_no_text_of_a_side_file_gets_into_a_column(value):
    fields = ("Manufacturer", "MagneticFieldStrength", "Modality", "ImageType", "ProtocolName", "SeriesDescription")
    facts, _ = told(sidecar=dict.fromkeys(fields, value), plane="Jane Doe")
    said = {facts.modality, facts.likely, facts.plane, facts.sequence, facts.vendor}
    assert said <= {None, "OTHER", "other", "not_mr"}
