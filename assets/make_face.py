"""Cut face.png out of scikit-image's astronaut portrait; needs scikit-image and opencv-python-headless.

usage: python assets/make_face.py YUNET.onnx
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from skimage.data import astronaut

# The usual 112 x 112 recognition template (eyes, nose, corners of the mouth), scaled to 128 pixels.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
SIZE = 128

picture = np.ascontiguousarray(astronaut()[:, :, ::-1])
detector = cv2.FaceDetectorYN.create(sys.argv[1], "", picture.shape[1::-1])
_, faces = detector.detect(picture)
landmarks = faces[0, 4:14].reshape(5, 2)
matrix, _ = cv2.estimateAffinePartial2D(landmarks, TEMPLATE * SIZE / 112, method=cv2.LMEDS)
face = cv2.warpAffine(
    picture, matrix, (SIZE, SIZE), flags=cv2.INTER_AREA if np.hypot(*matrix[0, :2]) < 1 else cv2.INTER_CUBIC
)
cv2.imwrite(str(Path(__file__).parent / "face.png"), face)
