"""facexp with tracking, on the frames of a clip at 25 frames a second."""

import loop


def load():
    import itertools

    import cv2

    import facexp

    cv2.setNumThreads(1)
    tracker, number = facexp.Tracker(facexp.Analyzer("cpu", threads=1)), itertools.count()
    return lambda path: len(tracker.track(cv2.imread(path), 40 * next(number)))


loop.serve(load)
