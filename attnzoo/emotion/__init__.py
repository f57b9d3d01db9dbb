"""The audio-visual video-emotion task: folders of real videos in, a trained and evaluated model out.

One clip's way: `datasets` finds the file, `media` decodes frames and sound, `sampling` says which frames, `audio` turns
sound into MFCC maps, `model` classifies, `training` fits and evaluates. The recipe that holds all settings is `recipe`.
"""

from attnzoo.extras import need

need("emotion", "lightning", "safetensors", "av", "librosa", "matplotlib")
