"""Series of a run as other systems take them: DICOM SR for an archive of images, tables for OMOP databases."""
