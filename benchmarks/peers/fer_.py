"""fer: faces (Haar cascade) and emotions, with its default TFLite network."""

import loop


def load():
    import cv2
    from fer.fer import FER

    cv2.setNumThreads(1)
    model = FER()
    return lambda path: len(model.detect_emotions(cv2.imread(path)))


loop.serve(load)
