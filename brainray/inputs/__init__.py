"""What a user names -> the images it lists, with their labels: folders, file lists, archives. Decodes none of them."""
