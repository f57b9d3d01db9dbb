"""Image classification on folders of images: the recipes, training and leaderboards of the video task, for images."""
