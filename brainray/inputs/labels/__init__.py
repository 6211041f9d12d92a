"""What a table says of images: their label, group or box, and how its rows find the images they name."""
