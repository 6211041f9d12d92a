"""File lists and S3 inventories: inputs that name images, and the lookup of what they name."""
