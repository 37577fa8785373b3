"""OpenCV 4's Haar cascade: faces only."""

import loop


def load():
    import cv2

    cv2.setNumThreads(1)
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    return lambda path: len(cascade.detectMultiScale(cv2.imread(path, cv2.IMREAD_GRAYSCALE), 1.1, 5, minSize=(30, 30)))


loop.serve(load)
