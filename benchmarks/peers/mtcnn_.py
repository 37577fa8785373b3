"""mtcnn: faces and 5 points, on TensorFlow."""

import loop


def load():
    import cv2
    from mtcnn import MTCNN

    cv2.setNumThreads(1)
    model = MTCNN()
    return lambda path: len(model.detect_faces(cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)))


loop.serve(load)
