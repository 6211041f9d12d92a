"""brainray: batch scoring of brain MRI archives with Ray. Not a medical device.

Importing the package has no effect and imports nothing heavy: no Ray, no torch, no environment read.
"""

__version__ = "0.1.0"
