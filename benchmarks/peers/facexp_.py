"""facexp: faces, keypoints and emotions."""

import loop


def load():
    import cv2

    import facexp

    cv2.setNumThreads(1)
    analyzer = facexp.Analyzer("cpu", threads=1)
    return lambda path: len(analyzer.analyze(cv2.imread(path)))


loop.serve(load)
